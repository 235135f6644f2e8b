"use strict";
// Sorts and filters the rows of the table in the page. No text is ever taken for HTML.
(function () {
  const $ = (id) => document.getElementById(id);
  const body = $("images").tBodies[0];
  const heads = [...$("images").tHead.rows[0].cells];
  const rows = [...body.rows].map((row, order) => ({ row, order, text: row.textContent.toLowerCase() }));
  const column = (name) => heads.findIndex((head) => head.innerText.startsWith(name));
  const percentile = column("Percentile");
  const warnings = heads.length - 1;

  // Numbers by their whole value; an empty cell is null, whichever way is sorted.
  const valueOf = (row, at) => {
    const cell = row.cells[at];
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    return cell.textContent === "" ? null : cell.textContent;
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number"
      ? a - b
      : String(a).localeCompare(String(b), "en", { numeric: true });

  const sort = (at) => {
    const up = heads[at].getAttribute("aria-sort") !== "ascending";
    for (const head of heads) head.setAttribute("aria-sort", "none");
    heads[at].setAttribute("aria-sort", up ? "ascending" : "descending");
    rows.sort((one, two) => {
      const a = valueOf(one.row, at);
      const b = valueOf(two.row, at);
      if (a === null || b === null) return (a === null) - (b === null) || one.order - two.order;
      return (up ? 1 : -1) * compare(a, b) || one.order - two.order;
    });
    for (const { row } of rows) body.append(row);
  };
  heads.forEach((head, at) => head.querySelector("button").addEventListener("click", () => sort(at)));

  const filter = () => {
    const words = $("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const least = $("least").value === "" ? null : Number($("least").value);
    let shown = 0;
    for (const { row, text } of rows) {
      const at = valueOf(row, percentile);
      const fits =
        words.every((word) => text.includes(word)) &&
        ($("status").value === "" || row.dataset.status === $("status").value) &&
        (least === null || (at !== null && at >= least)) &&
        (!$("warned").checked || row.cells[warnings].textContent !== "");
      row.hidden = !fits;
      shown += fits;
    }
    $("count").textContent = `${shown} of ${rows.length} shown`;
  };
  $("filters").addEventListener("input", filter);
  $("filters").addEventListener("reset", () => setTimeout(filter));
  $("filters").addEventListener("submit", (event) => event.preventDefault());

  const preview = $("preview");
  const show = (row) => {
    const again = row.hasAttribute("aria-selected");
    for (const other of rows) other.row.removeAttribute("aria-selected");
    preview.hidden = again;
    if (again) return;
    row.setAttribute("aria-selected", "true");
    const name = row.cells[2].textContent;
    preview.querySelector("figcaption").textContent = name;
    const image = preview.querySelector("img");
    image.src = row.dataset.picture;
    image.alt = `Axial slices of ${name}, with the places above the threshold outlined`;
  };
  for (const { row } of rows) {
    if (!row.dataset.picture) continue;
    row.tabIndex = 0;
    row.addEventListener("click", (event) => event.target.closest("a") || show(row));
    row.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && event.target === row) show(row);
    });
  }
  filter();
  document.body.dataset.ready = "yes";
})();
