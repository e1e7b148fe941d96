// What both kinds of examples share: elements, labelled controls, pages of results.
const PAGE_SIZE = 10;
let controls = 0;

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// A control with its label; `onchange` runs when its value changes.
function makeControl(label, control, onchange) {
  control.id = `examples-control-${controls++}`;
  control.addEventListener("input", onchange);
  return make("div", { class: "control" }, make("label", { for: control.id }, label), control);
}

// Options are pairs of value and text; the value is kept if it is still one of them.
function setOptions(select, options, chosen = select.value) {
  select.replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
  if (options.some(([value]) => value === chosen)) select.value = chosen;
}

// Draws `items` a page at a time with `draw`; only the page that is looked at is in the document.
class Pages {
  constructor(host, unit, draw, size = PAGE_SIZE) {
    Object.assign(this, { unit, draw, size, items: [], page: 0 });
    this.count = make("p", { class: "count", role: "status" });
    this.list = make("div", { class: "results" });
    this.previous = make("button", { type: "button", onclick: () => this.turn(-1) }, "Previous");
    this.next = make("button", { type: "button", onclick: () => this.turn(1) }, "Next");
    this.place = make("span");
    this.controls = make("nav", { "aria-label": `pages of ${unit}` }, this.previous, this.place, this.next);
    host.append(this.count, this.list, this.controls);
  }

  show(items, total, remark = "") {
    Object.assign(this, { items, page: 0, total, remark });
    this.render();
  }

  turn(step) {
    this.page += step;
    this.render();
    this.count.scrollIntoView({ block: "nearest" });
  }

  render() {
    const pages = Math.max(1, Math.ceil(this.items.length / this.size));
    const start = this.page * this.size;
    const part = this.items.slice(start, start + this.size);
    const span = part.length ? `Here ${start + 1} to ${start + part.length}: ` : "";
    this.count.textContent = `${span}${this.items.length} of ${this.total} ${this.unit} match. ${this.remark}`;
    this.list.replaceChildren(...part.map(this.draw));
    this.place.textContent = ` page ${this.page + 1} of ${pages} `;
    this.previous.disabled = this.page === 0;
    this.next.disabled = this.page === pages - 1;
    this.controls.hidden = pages === 1;
  }
}

function describeCut(part, page) {
  return part.shown < part.total ? `Only ${part.shown} of ${part.total} are on this page; all are in ${page}.` : "";
}
