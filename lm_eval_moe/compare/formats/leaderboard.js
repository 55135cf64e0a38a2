
const say = (text) => { document.getElementById("status").textContent = text; };

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[table.tBodies.length - 1];
  const text = (row) => row.cells[0].firstChild.textContent;
  const number = (row, place) => {
    const given = row.cells[place].dataset.value;
    return given === undefined ? null : Number(given);
  };
  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const best = head.dataset.best === "up" ? "ascending" : "descending";
      const other = best === "ascending" ? "descending" : "ascending";
      const order = before === best ? other : best;
      const sign = order === "ascending" ? 1 : -1;
      const rows = [...body.rows];
      rows.sort((a, b) => {
        if (place === 0) return sign * text(a).localeCompare(text(b));
        const x = number(a, place), y = number(b, place);
        if (x === null || y === null) return (x === null) - (y === null);
        return sign * (x - y);
      });
      body.append(...rows);
      heads.forEach((each) => each.setAttribute("aria-sort", each === head ? order : "none"));
      say("Sorted by " + button.textContent + ", " + order);
    });
  });
}

for (const field of document.querySelectorAll(".filter")) {
  const input = field.querySelector("input");
  const table = document.getElementById(input.dataset.table);
  const named = [...table.querySelectorAll("th[data-words]")];
  field.hidden = false;
  input.addEventListener("input", () => {
    const terms = input.value.toLowerCase().split(/[\s,;]+/).filter((term) => term);
    let shown = 0;
    for (const head of named) {
      const words = head.dataset.words.split(" ");
      const fits = !terms.length || terms.some((term) => words.some((word) => word.startsWith(term)));
      const cells = head.scope === "row" ? [head.parentElement] : [...table.rows].map((row) => row.cells[head.cellIndex]);
      for (const cell of cells) cell.hidden = !fits;
      shown += fits;
    }
    say(shown + " of " + named.length + " languages");
  });
}

for (const frame of document.querySelectorAll(".scroll")) {
  const hint = frame.parentElement.querySelector(".more");
  const look = () => { hint.hidden = frame.scrollWidth <= frame.clientWidth + 1; };
  new ResizeObserver(look).observe(frame);
  frame.addEventListener("input", look);
  look();
}
