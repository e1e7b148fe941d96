// Photos with the answers of CLIP alone and of a head: classes that are confused, what the head changed, and the photos by answer.
// A table has columns: id, answer, chance (thousandths), clip, clip_chance; perhaps label, uncertainty, factor (AMU's), picture, link, note.
const NONE = -1; // the answer "none of these"
const MOST_CLASSES = 20; // of a square of confusions that can be read
const OPEN_CLASSES = 10; // of a square that is not folded at first
const MOST_PAIRS = 20;
const KINDS = {
  loss: "right to wrong", wrong: "both wrong", none: "none of these", gain: "wrong to right", right: "both right",
  changed: "not CLIP's answer", kept: "CLIP's answer",
};

const sayChance = (chance) => (chance >= 995 ? "over 99%" : chance < 5 ? "under 1%" : `${Math.round(chance / 10)}%`);
const counted = (count, thing = "photo") => `${count} ${thing}${count === 1 ? "" : "s"}`;

function countPairs(pairs) {
  const counts = new Map();
  for (const pair of pairs) counts.set(pair.join(), (counts.get(pair.join()) ?? 0) + 1);
  return [...counts].map(([key, count]) => [...key.split(",").map(Number), count]).sort((one, other) => other[2] - one[2]);
}

class PhotoSheet {
  // `controls` stand before those of the sheet.
  constructor(host, ...controls) {
    const draw = () => this.filter();
    this.answer = make("select");
    this.truth = make("select");
    this.clip = make("select");
    this.kind = make("select");
    this.order = make("select");
    this.search = make("input", { type: "search", placeholder: "a class or a file" });
    this.truthControl = makeControl("Really", this.truth, draw);
    this.confusions = make("details", { class: "confusions" });
    this.changes = make("details", { class: "changes" });
    host.append(this.confusions, this.changes, make("form", { class: "controls", onsubmit: (event) => event.preventDefault() },
      ...controls,
      makeControl("Answer", this.answer, draw), this.truthControl, makeControl("CLIP alone", this.clip, draw),
      makeControl("CLIP alone, then the method", this.kind, draw), makeControl("Order", this.order, draw),
      makeControl("Search", this.search, draw)));
    this.pages = new Pages(host, "images", (place, position) => this.drawPlace(place, position), 48);
    this.pages.list.classList.add("sheet");
    setOptions(this.order, [["sure", "by answer, surest first"], ["unsure", "by answer, least sure first"], ["together", "least sure first, all together"]]);
  }

  // `method` is the head's name, `remark` follows the counts.
  show(table, method, remark = "") {
    Object.assign(this, { table, method, remark });
    this.places = table.id.map((_, place) => place);
    this.kinds = this.places.map((place) => this.kindOf(place));
    this.fillOptions();
    this.truthControl.hidden = !table.label;
    this.drawConfusions();
    this.drawChanges();
    this.filter();
  }

  name(label) { return label === NONE ? "none of these" : this.table.classes[label]; }

  kindOf(place) {
    const { label, clip, answer } = this.table;
    if (answer[place] === NONE) return "none";
    if (!label) return answer[place] === clip[place] ? "kept" : "changed";
    const [before, after] = [clip[place] === label[place], answer[place] === label[place]];
    return before ? (after ? "right" : "loss") : after ? "gain" : "wrong";
  }

  fillOptions() {
    for (const column of ["answer", "label", "clip"]) {
      if (!this.table[column]) continue;
      const counts = new Map();
      for (const label of this.table[column]) counts.set(label, (counts.get(label) ?? 0) + 1);
      const options = [...counts.keys()].sort((one, other) => one - other).map((label) => [String(label), `${this.name(label)} (${counts.get(label)})`]);
      setOptions(column === "label" ? this.truth : this[column], [["", "all"], ...options]);
    }
    const there = Object.entries(KINDS).filter(([kind]) => this.kinds.includes(kind) || (this.table.label && kind in { loss: 0, wrong: 0, gain: 0, right: 0 }));
    setOptions(this.kind, [["", this.table.label ? "all, failures first" : "all"], ...there]);
  }

  filter() {
    const { answer, label, clip, chance, classes, id } = this.table;
    const words = this.search.value.trim().toLowerCase();
    const named = (place) => id[place].toLowerCase().includes(words)
      || [label, clip, answer].some((column) => column && this.name(column[place]).toLowerCase().includes(words));
    const chosen = (select, column, place) => !select.value || !column || String(column[place]) === select.value;
    const group = (place) => (answer[place] === NONE ? classes.length : answer[place]);
    const failed = (place) => (label && answer[place] !== label[place] ? 0 : 1);
    const orders = {
      sure: (one, other) => group(one) - group(other) || failed(one) - failed(other) || chance[other] - chance[one],
      unsure: (one, other) => group(one) - group(other) || chance[one] - chance[other],
      together: (one, other) => chance[one] - chance[other],
    };
    this.found = this.places
      .filter((place) => chosen(this.answer, answer, place) && chosen(this.truth, label, place) && chosen(this.clip, clip, place)
        && (!this.kind.value || this.kinds[place] === this.kind.value) && named(place))
      .sort(orders[this.order.value]);
    const counts = Object.entries(KINDS).map(([kind, words]) => [words, this.kinds.filter((own) => own === kind).length])
      .filter(([, count]) => count).map(([words, count]) => `${words}: ${count}`).join(", ");
    this.pages.show(this.found, id.length, `${counts}. ${this.remark}`);
  }

  // Shows the photos that a cell counts.
  choose(values) {
    for (const name of ["answer", "truth", "clip", "kind"]) this[name].value = String(values[name] ?? "");
    this.search.value = "";
    this.filter();
    this.pages.count.scrollIntoView({ block: "start" });
    this.pages.count.tabIndex = -1;
    this.pages.count.focus({ preventScroll: true });
  }

  // The photos

  drawPlace(place, position) {
    const { answer } = this.table;
    if (this.order.value === "together") return this.drawPhoto(place);
    const first = position === 0 || answer[this.found[this.pages.page * this.pages.size + position - 1]] !== answer[place];
    const drawn = document.createDocumentFragment();
    if (first) drawn.append(this.drawGroup(answer[place]));
    drawn.append(this.drawPhoto(place));
    return drawn;
  }

  drawGroup(label) {
    const { answer, label: truth } = this.table;
    const members = this.found.filter((place) => answer[place] === label);
    const right = truth && label !== NONE ? `, ${members.filter((place) => truth[place] === label).length} right` : "";
    return make("p", { class: "group" }, make("b", {}, this.name(label)), ` ${counted(members.length)}${right}`);
  }

  drawPhoto(place) {
    const { label, clip, clip_chance: clipChance, answer, chance, picture, id, uncertainty, factor, note, link } = this.table;
    const line = (who, given, sure) => {
      const right = label ? given === label[place] : null;
      const outcome = given === NONE || right === null ? "" : right ? "right" : "wrong";
      const mark = { right: "✓ ", wrong: "✗ ", "": "" }[outcome];
      return make("span", { class: `outcome ${outcome || "none"}` }, `${mark}${who}: ${this.name(given)}`, sure === undefined ? "" : make("span", { class: "chance" }, ` ${sayChance(sure)}`));
    };
    const words = label ? `${this.name(label[place])} (${id[place]})` : id[place];
    const image = picture?.[place] ? make("img", { src: picture[place], alt: words }) : make("p", { class: "unseen" }, "(no picture here)");
    return make("figure", { class: this.kinds[place] },
      link ? make("a", { href: link[place], target: "_blank", rel: "noopener" }, image) : image,
      make("figcaption", {},
        label ? make("b", {}, this.name(label[place])) : null,
        line("CLIP", clip[place], clipChance?.[place]), line(this.method, answer[place], chance[place]),
        uncertainty ? make("span", {}, `uncertainty ${uncertainty[place].toFixed(2)}`) : null,
        factor ? make("span", {}, `u = ${factor[place].toFixed(2)}`) : null,
        make("span", { class: "file" }, id[place]),
        note?.[place] ? make("span", { class: "remark" }, note[place]) : null));
  }

  // What is confused, and what the head changed

  drawConfusions() {
    const { label, answer, classes } = this.table;
    this.confusions.hidden = !label;
    this.confusions.open ||= classes.length <= OPEN_CLASSES && !this.drawn;
    this.drawn = true;
    if (!label) return;
    const pairs = countPairs(this.places.map((place) => [label[place], answer[place]]));
    const wrong = pairs.filter(([truth, given]) => truth !== given && given !== NONE).reduce((sum, pair) => sum + pair[2], 0);
    const summary = make("summary", {}, `Confusions: ${counted(wrong)} of ${this.places.length} answered wrong`);
    const table = classes.length <= MOST_CLASSES ? this.drawSquare(pairs)
      : this.drawPairs("Confusions", ["really", "answered"], pairs.filter(([truth, given]) => truth !== given), ([truth, given]) => ({ truth, answer: given }));
    this.confusions.replaceChildren(summary, make("div", { class: "scroll", role: "region", "aria-label": "Confusions", tabindex: "0" }, table));
  }

  drawSquare(pairs) {
    const counts = new Map(pairs.map(([truth, given, count]) => [`${truth},${given}`, count]));
    const columns = [...this.table.classes.keys(), ...(this.table.answer.includes(NONE) ? [NONE] : [])];
    const rows = [...this.table.classes.keys()].map((truth) => {
      const total = columns.reduce((sum, given) => sum + (counts.get(`${truth},${given}`) ?? 0), 0);
      const cells = columns.map((given) => this.drawCell(truth, given, counts.get(`${truth},${given}`) ?? 0, total));
      return make("tr", {}, make("th", { scope: "row" }, this.name(truth)), ...cells, make("td", { class: "total" }, String(total)));
    });
    const head = columns.map((given) => make("th", { scope: "col" }, this.name(given)));
    return make("table", { class: "square" }, make("caption", {}, "Really (down) and answered (across); a number shows its photos."),
      make("thead", {}, make("tr", {}, make("td"), ...head, make("th", { scope: "col" }, "photos"))), make("tbody", {}, ...rows));
  }

  drawCell(truth, given, count, total) {
    if (!count) return make("td", { class: truth === given ? "diagonal" : "" }, "·");
    const words = `${counted(count)} of ${this.name(truth)} answered ${this.name(given)}`;
    const button = make("button", { type: "button", "aria-label": words, onclick: () => this.choose({ truth, answer: given }) }, String(count));
    const shade = truth === given ? "0, 114, 178" : given === NONE ? "119, 119, 119" : "213, 94, 0";
    const style = `background: rgba(${shade}, ${(0.12 + 0.4 * count / total).toFixed(2)})`;
    return make("td", { class: truth === given ? "diagonal" : "", style }, button);
  }

  drawChanges() {
    const { clip, answer, label } = this.table;
    const changed = this.places.filter((place) => clip[place] !== answer[place]);
    const gained = label ? `: ${this.kinds.filter((kind) => kind === "gain").length} from wrong to right, ${this.kinds.filter((kind) => kind === "loss").length} from right to wrong` : "";
    const summary = make("summary", {}, `Changed: ${this.method} answers ${counted(changed.length)} of ${this.places.length} otherwise than CLIP alone${gained}`);
    const pairs = countPairs(changed.map((place) => [clip[place], answer[place]]));
    const table = this.drawPairs("What was changed", ["CLIP alone", this.method], pairs, ([before, after]) => ({ clip: before, answer: after }));
    this.changes.replaceChildren(summary, pairs.length ? table : make("p", {}, "Nothing."));
  }

  drawPairs(title, [first, second], pairs, choice) {
    const rows = pairs.slice(0, MOST_PAIRS).map((pair) => make("tr", {}, make("td", {}, this.name(pair[0])), make("td", {}, this.name(pair[1])),
      make("td", {}, make("button", { type: "button", "aria-label": `show ${counted(pair[2])}: ${this.name(pair[0])}, then ${this.name(pair[1])}`, onclick: () => this.choose(choice(pair)) }, counted(pair[2])))));
    const more = pairs.length - rows.length;
    const head = [first, second, "photos"].map((name) => make("th", { scope: "col" }, name));
    return make("table", { class: "pairs" }, make("caption", {}, more > 0 ? `${title}, the ${rows.length} most frequent of ${pairs.length} pairs` : title),
      make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
  }
}
