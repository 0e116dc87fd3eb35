// Watches one EventSource and tells everything that it does. Runs in node and, as text, in a page: it may use nothing
// from outside itself.

export function record(source, tell) {
  const told = (kind) => (event) => {
    const { data, lastEventId: id } = event;
    tell({ kind, data, id, ready_state: source.readyState });
  };
  for (const kind of ["open", "error", "message", "gap"]) source.addEventListener(kind, told(kind));
}
