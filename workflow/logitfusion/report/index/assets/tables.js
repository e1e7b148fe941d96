const { js, css } = await loadData("datatables");
const style = document.createElement("style");
style.textContent = css;
document.head.prepend(style); // the page's own rules come after it
const address = URL.createObjectURL(new Blob([js], { type: "text/javascript" }));
const DataTable = (await import(address)).default;
URL.revokeObjectURL(address);

const escaped = document.createElement("span");
function escape(text) {
  escaped.textContent = text ?? "";
  return escaped.innerHTML;
}

// A menu of a column's values, as they are searched, without markup, above the table.
function menu(api, index, title) {
  const label = document.createElement("label");
  const select = document.createElement("select");
  const values = [...new Set(api.column(index).cache("search").toArray().filter((value) => value !== null && value !== ""))];
  select.append(new Option("all", ""), ...values.map((value) => new Option(value, value)));
  select.addEventListener("change", () => {
    const wanted = select.value;
    api.column(index).search.fixed("menu", wanted === "" ? null : (text) => text === wanted).draw();
  });
  label.append(title + " ", select);
  return label;
}

function addMenus(api, table, indices) {
  const bar = document.createElement("div");
  bar.className = "menus";
  bar.append(...indices.map((index) => menu(api, index, api.column(index).title())));
  table.closest(".dt-container").prepend(bar);
}

// As it is read; what a spreadsheet would take for a formula is quoted.
function text(data, row, column, node) {
  const shown = (node?.innerText ?? String(data ?? "")).replace(/\s+/g, " ").trim();
  return /^[=@]/.test(shown) ? "'" + shown : shown;
}

// On a phone each row is a card: a table longer than this is read a page at a time.
const LONG = 50;

function options(table, rows, more) {
  const long = rows > LONG;
  const exported = { exportOptions: { format: { body: text } }, filename: table.dataset.name, title: null };
  return {
    order: [],
    autoWidth: false,
    paging: long,
    pageLength: 25,
    layout: {
      topStart: "search",
      topEnd: { buttons: [{ extend: "csvHtml5", text: "Download CSV", ...exported }] },
      bottomStart: "info",
      bottomEnd: long ? "paging" : null,
    },
    language: {
      search: "Search",
      info: "_TOTAL_ of _MAX_ rows" + (long ? ", here _START_ to _END_" : ""),
      infoEmpty: "no rows",
      infoFiltered: "",
    },
    ...more,
  };
}

// The table's own box scrolls, so it is the one that a keyboard must reach; the outer one stops doing so.
function finish(table) {
  table.querySelectorAll("thead th").forEach((cell) => cell.setAttribute("scope", "col"));
  const outer = table.closest(".table-box");
  const inner = table.closest(".dt-layout-table");
  inner.tabIndex = 0;
  inner.setAttribute("role", "region");
  inner.setAttribute("aria-label", outer.getAttribute("aria-label"));
  outer.removeAttribute("tabindex");
  outer.removeAttribute("role");
  outer.removeAttribute("aria-label");
}

document.querySelectorAll("table.results:not([data-rows])").forEach((table) => {
  const filtered = [...table.tHead.rows[0].cells].flatMap((cell, index) => ("filter" in cell.dataset ? [index] : []));
  const api = new DataTable(table, options(table, table.tBodies[0].rows.length, {}));
  addMenus(api, table, filtered);
  finish(table);
});

for (const table of document.querySelectorAll("table[data-rows]")) {
  const { columns, filtered, rows } = await loadData(table.dataset.rows);
  const api = new DataTable(
    table,
    options(table, rows.length, {
      data: rows,
      columns: columns.map((title) => ({
        title: title.replaceAll("_", " "),
        defaultContent: "",
        render: {
          display: (value) => (typeof value === "number" && !Number.isInteger(value) ? value.toPrecision(4) : escape(value)),
        },
        createdCell: (cell) => cell.setAttribute("data-label", title.replaceAll("_", " ")),
      })),
      deferRender: true,
      buttons: [],
      layout: {
        topStart: "search",
        topEnd: {
          buttons: [
            { extend: "csvHtml5", text: "Download CSV", filename: table.dataset.name, title: null, exportOptions: { orthogonal: "export" } },
          ],
        },
        bottomStart: "info",
        bottomEnd: rows.length > LONG ? "paging" : null,
      },
    }),
  );
  addMenus(api, table, filtered.map((name) => columns.indexOf(name)));
  finish(table);
}
