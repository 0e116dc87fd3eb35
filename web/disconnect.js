// The dialog that ends streams: by topic, by address, or by what their tokens say.

import { $ } from "./dom.js";

/** Returns what opens the dialog, with a kind and a value to begin with. */
export function offerDisconnect(headers, notify) {
  const dialog = $("disconnect");
  let asked = 0; // an answer for an earlier target must not close the dialog of a later one
  const open = (kind, value = "") => {
    asked += 1;
    $("disconnect-kind").value = kind;
    $("disconnect-value").value = value;
    $("disconnect-result").textContent = "";
    $("disconnect-token-label").hidden = true;
    dialog.showModal();
  };
  $("disconnect-open").onclick = () => open("address");
  $("disconnect-cancel").onclick = () => dialog.close();
  $("disconnect-form").onsubmit = async (event) => {
    event.preventDefault();
    const kind = $("disconnect-kind").value;
    // A topic's name may begin or end with a space.
    const value = kind === "topic" ? $("disconnect-value").value : $("disconnect-value").value.trim();
    const word = $("disconnect-token").value.trim();
    const authorization = word ? { Authorization: `Bearer ${word}` } : headers();
    const init = { method: "POST", headers: { "Content-Type": "application/json", ...authorization }, body: JSON.stringify({ [kind]: value }) };
    $("disconnect-result").textContent = "";
    const own = ++asked;
    const result = await fetch("disconnect", init).then(outcome, () => ({ problem: "The server can’t be reached." }));
    const isStillAsked = own === asked && dialog.open;
    if (result.problem && isStillAsked) {
      $("disconnect-result").textContent = result.problem;
      // Through the admin listener the page itself needs none.
      if (result.needsToken) $("disconnect-token-label").hidden = false;
    } else if (result.problem) notify(`${kind.replace("_", " ")} ${value}: ${result.problem}`, "bad");
    else {
      if (isStillAsked) dialog.close();
      notify(`${result.disconnected} ${result.disconnected === 1 ? "stream" : "streams"} ended: ${kind.replace("_", " ")} ${value}`);
    }
  };
  return open;
}

async function outcome(response) {
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  const needsToken = response.status === 401 || response.status === 403;
  return { problem: `Not done (${response.status}): ${answer.detail ?? response.statusText}`, needsToken };
}
