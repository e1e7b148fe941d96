// Test images with the answers of CLIP alone and of one method.
const CHANGES = {
  loss: ["right to wrong", (clip, own) => clip && !own],
  wrong: ["both wrong", (clip, own) => !clip && !own],
  gain: ["wrong to right", (clip, own) => !clip && own],
  right: ["both right", (clip, own) => clip && own],
};

class ContactSheets {
  constructor(host, track, fullPage) {
    Object.assign(this, { host, track, fullPage, table: null });
    const draw = () => this.filter();
    this.set = make("select");
    this.method = make("select");
    this.shots = make("select");
    this.seed = make("select");
    this.change = make("select");
    this.search = make("input", { type: "search", placeholder: "a class" });
    const form = make("form", { class: "controls", onsubmit: (event) => event.preventDefault() },
      makeControl("Test set", this.set, () => this.load()),
      makeControl("Method", this.method, draw),
      makeControl("Shots", this.shots, draw),
      makeControl("Seed", this.seed, draw),
      makeControl("CLIP alone, then the method", this.change, draw),
      makeControl("Search", this.search, draw));
    host.append(make("h3", {}, track.title), make("p", {}, track.note), form);
    this.pages = new Pages(host, "images", (place) => this.drawImage(place), 48);
    this.pages.list.classList.add("sheet");
    setOptions(this.set, track.parts.map((part, place) => [String(place), track.names[part.name]]));
    const changes = Object.entries(CHANGES).map(([kind, [words]]) => [kind, words]);
    setOptions(this.change, [["", "all, failures first"], ...changes]);
  }

  get part() { return this.track.parts[Number(this.set.value)]; }

  async load() {
    this.table = await loadData(this.part.data);
    const methods = Object.keys(this.table.answers);
    setOptions(this.method, methods.map((name) => [name, name]), this.method.value || this.track.shown);
    const shots = Object.keys(this.table.answers[methods[0]]);
    setOptions(this.shots, shots.map((count) => [count, count]), this.shots.value || shots.at(-1));
    const seeds = Object.keys(this.table.answers[methods[0]][shots[0]]);
    setOptions(this.seed, seeds.map((seed) => [seed, seed]));
    this.filter();
  }

  changeOf(place) {
    const clip = this.table.clip[place] === this.table.label[place];
    const own = this.answers[place] === this.table.label[place];
    return Object.keys(CHANGES).find((kind) => CHANGES[kind][1](clip, own));
  }

  filter() {
    this.answers = this.table.answers[this.method.value][this.shots.value][this.seed.value];
    const words = this.search.value.trim().toLowerCase();
    const order = Object.keys(CHANGES);
    const kinds = this.table.id.map((_, place) => this.changeOf(place));
    const named = (place) => [this.table.label, this.table.clip, this.answers]
      .some((column) => this.table.classes[column[place]].toLowerCase().includes(words));
    const found = this.table.id.map((_, place) => place)
      .filter((place) => (!this.change.value || kinds[place] === this.change.value) && named(place))
      .sort((one, other) => order.indexOf(kinds[one]) - order.indexOf(kinds[other]));
    const counts = order.map((kind) => `${CHANGES[kind][0]}: ${kinds.filter((own) => own === kind).length}`).join(", ");
    this.pages.show(found, this.table.id.length, `${counts}. ${describeCut(this.part, this.fullPage)}`);
  }

  drawImage(place) {
    const { classes, label, clip, picture, factor, id } = this.table;
    const answer = (who, given) => {
      const right = given === label[place];
      return make("span", { class: `outcome ${right ? "right" : "wrong"}` }, `${right ? "✓" : "✗"} ${who}: ${classes[given]}`);
    };
    const image = picture[place]
      ? make("img", { src: picture[place], alt: `${classes[label[place]]} (${id[place]})` })
      : make("p", {}, "(unreadable image)");
    return make("figure", {}, image, make("figcaption", {}, make("b", {}, classes[label[place]]),
      answer("CLIP", clip[place]), answer(this.method.value, this.answers[place]), `u = ${factor[place].toFixed(2)}`));
  }
}

const EXPLORERS = { texts: TextExplorer, images: ContactSheets };

async function showExamples() {
  const { tracks, full_page: fullPage } = await loadData("examples");
  for (const host of document.querySelectorAll(".examples")) {
    const track = tracks[Number(host.dataset.track)];
    await new EXPLORERS[track.kind](host, track, fullPage).load();
  }
}

await showExamples();
