// Small pieces of the document that several parts of the page build.

export const $ = (id) => document.getElementById(id);

/** Creates an element with attributes and children. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const TAIL = 14; // characters at the end that stay readable

/** A name that is shortened in its middle where it does not fit: topics often differ only at the end. */
export function shortened(name) {
  const at = Math.max(0, name.length - TAIL);
  const made = element("span", { class: "name", title: name }, element("span", {}, name.slice(0, at)));
  // A space at the cut would be lost.
  made.append(element("span", {}, name.slice(at).replace(/^ /, "\u00a0")));
  return made;
}

/**
 * Fills a table's body; its columns are those of the table's head, and an item's first cell is its key. Rows that stay are changed
 * in place, so that they keep the focus, a pressed button and a selection.
 */
export function fill(body, items, cells, otherwise) {
  const columns = [...body.previousElementSibling.rows[0].cells].map((cell) => cell.className);
  const known = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  const rows = items.map((item) => {
    const made = cells(item);
    const key = made[0].textContent ?? made[0];
    const row = known.get(key) ?? element("tr", { "data-key": key }, ...columns.map((name) => element("td", { class: name })));
    made.forEach((cell, i) => {
      const place = row.cells[i];
      if (place.textContent === (cell.textContent ?? cell) && place.childNodes.length) return;
      place.replaceChildren(cell);
    });
    return row;
  });
  if (!rows.length) rows.push(element("tr", {}, element("td", { colspan: columns.length, class: "muted" }, otherwise)));
  const stays = new Set(rows);
  for (const old of [...body.rows]) if (!stays.has(old)) old.remove();
  // Only what is out of place is moved: what is moved loses the focus.
  rows.forEach((row, i) => body.rows[i] !== row && body.insertBefore(row, body.rows[i] ?? null));
}
