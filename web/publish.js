// The form that publishes a test event.

import { $ } from "./dom.js";

export function publishing() {
  const form = $("publish-form");
  const body = () => {
    const head = { topic: $("publish-topic").value.trim() };
    const type = $("publish-type").value.trim();
    if (type) head.event = type;
    return `${JSON.stringify(head).slice(0, -1)},"data":${asJson($("publish-data").value)}}`;
  };
  form.oninput = () => {
    const header = $("publish-token").value ? ' -H "Authorization: Bearer $TOKEN"' : "";
    $("publish-curl").textContent = `curl${header} ${quoted(new URL("publish", document.baseURI).href)} -d ${quoted(body())}`;
  };
  form.onsubmit = async (event) => {
    event.preventDefault();
    const headers = { "Content-Type": "application/json" };
    if ($("publish-token").value) headers.Authorization = `Bearer ${$("publish-token").value}`;
    $("published").textContent = "";
    $("published").textContent = await fetch("publish", { method: "POST", headers, body: body() }).then(outcome, () => "The server can’t be reached.");
  };
  form.oninput();
}

async function outcome(response) {
  const { id, detail } = await response.json().catch(() => ({}));
  return response.ok ? `Published as ${id}` : `Not published (${response.status}): ${detail ?? response.statusText}`;
}

/** JSON as it stands, number for number; anything else as a string. */
function asJson(text) {
  try {
    JSON.parse(text);
    return text;
  } catch {
    return JSON.stringify(text);
  }
}

/** A text as one word of a shell. */
export const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
