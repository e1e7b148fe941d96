// Test images with the answers of CLIP alone and of one method, which a reader chooses.
class ContactSheets {
  constructor(host, track, fullPage) {
    Object.assign(this, { host, track, fullPage, table: null });
    this.set = make("select");
    this.method = make("select");
    this.shots = make("select");
    this.seed = make("select");
    const draw = () => this.draw();
    host.append(make("h3", {}, track.title), make("p", {}, track.note));
    this.sheet = new PhotoSheet(host,
      makeControl("Test set", this.set, () => this.load()),
      makeControl("Method", this.method, draw), makeControl("Shots", this.shots, draw), makeControl("Seed", this.seed, draw));
    setOptions(this.set, track.parts.map((part, place) => [String(place), track.names[part.name]]));
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
    this.draw();
  }

  draw() {
    const given = this.table.answers[this.method.value][this.shots.value][this.seed.value];
    this.sheet.show({ ...this.table, ...given }, this.method.value, describeCut(this.part, this.fullPage));
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
