// Generated texts: filters, methods side by side, and every token with its weights and its expert.
const OUTCOMES = {
  n: ["∅", "no answer", "none"], w: ["✗", "wrong", "wrong"], r: ["✓", "right", "right"], s: ["~", "scored", "scored"],
};
const FAILURES_FIRST = "nwsr";
const NO_EXPERT = "#767676";

class TextExplorer {
  constructor(host, track, fullPage) {
    Object.assign(this, { host, track, fullPage, table: null });
    const draw = () => this.filter();
    this.task = make("select");
    this.method = make("select");
    this.outcome = make("select");
    this.beside = make("select");
    this.search = make("input", { type: "search", placeholder: "in prompt, text and answers" });
    const form = make("form", { class: "controls", onsubmit: (event) => event.preventDefault() },
      makeControl("Task", this.task, () => this.load()),
      makeControl("Method", this.method, () => { this.fillOutcomes(); draw(); }),
      makeControl("Outcome", this.outcome, draw),
      makeControl("Beside it", this.beside, () => { this.fillOutcomes(); draw(); }),
      makeControl("Search", this.search, draw));
    this.legend = make("ul", { class: "legend", "aria-label": "colours of the experts" });
    host.append(make("h3", {}, track.title), make("p", {}, track.note), form, this.legend);
    this.pages = new Pages(host, "examples", (place) => this.drawExample(place));
    setOptions(this.task, track.parts.map((part, place) => [String(place), part.name]));
  }

  get part() { return this.track.parts[Number(this.task.value)]; }

  async load() {
    this.table = await loadData(this.part.data);
    const methods = Object.keys(this.table.methods);
    const steered = methods.find((name) => this.table.methods[name].experts.length);
    setOptions(this.method, methods.map((name) => [name, name]), this.method.value || steered);
    const others = [["", "nothing"], ["*", "all other methods"], ...methods.map((name) => [name, name])];
    setOptions(this.beside, others, this.beside.value || this.track.beside);
    this.fillOutcomes();
    this.drawLegend();
    this.filter();
  }

  fillOutcomes() {
    const there = new Set(Object.values(this.table.methods).map((method) => method.outcome).join(""));
    if (!there.has("s")) ["n", "w", "r"].forEach((letter) => there.add(letter));
    const marks = Object.entries(OUTCOMES).filter(([letter]) => there.has(letter))
      .map(([letter, [mark, word]]) => [letter, `${mark} ${word}`]);
    const options = [["", "all, failures first"], ["nw", "failures: wrong or no answer"], ...marks];
    const rival = this.beside.value;
    if (rival && rival !== "*" && rival !== this.method.value) {
      options.push(["gain", `right, and ${rival} is not`], ["loss", `not right, but ${rival} is`]);
    }
    setOptions(this.outcome, options);
  }

  drawLegend() {
    const names = new Set(Object.values(this.table.methods).flatMap((method) => method.experts));
    const entries = [...names].map((name) => this.drawKey(this.track.colours[name], name));
    this.scale = Math.max(2000, ...Object.values(this.table.methods).map(largestSum));
    const height = (this.scale / 1000).toFixed(1);
    this.legend.replaceChildren(...entries);
    if (entries.length) {
      const words = `Bars are the experts' weights, stacked, from 0 to ${height}; the line in them is weight 1. Point at a token for its`
        + " numbers, or use Tab and the arrow keys.";
      this.legend.append(this.drawKey(NO_EXPERT, "none chosen"), make("li", {}, words));
    }
    this.legend.hidden = !entries.length;
  }

  drawKey(colour, name) {
    return make("li", {}, make("span", { class: "key", style: `background:${colour}` }), name);
  }

  filter() {
    const words = this.search.value.trim().toLowerCase();
    const own = this.table.methods[this.method.value];
    const rival = this.table.methods[this.beside.value];
    const found = this.table.id.map((_, place) => place)
      .filter((place) => this.hasOutcome(own, rival, place) && (!words || this.contains(own, place, words)))
      .sort((one, other) => FAILURES_FIRST.indexOf(own.outcome[one]) - FAILURES_FIRST.indexOf(own.outcome[other])
        || (own.score?.[one] ?? 0) - (own.score?.[other] ?? 0));
    this.pages.show(found, this.table.id.length, describeCut(this.part, this.fullPage));
  }

  hasOutcome(own, rival, place) {
    const wanted = this.outcome.value;
    const right = own.outcome[place] === "r";
    if (wanted === "gain") return right && rival.outcome[place] !== "r";
    if (wanted === "loss") return !right && rival.outcome[place] === "r";
    return !wanted || wanted.includes(own.outcome[place]);
  }

  contains(own, place, words) {
    const texts = [this.table.prompt[place], this.table.gold[place], textOf(own, place), own.answer[place] ?? ""];
    return texts.some((text) => text.toLowerCase().includes(words));
  }

  drawExample(place) {
    const others = Object.keys(this.table.methods).filter((name) => name !== this.method.value);
    const beside = this.beside.value === "*" ? others : others.filter((name) => name === this.beside.value);
    return make("article", { class: "example" },
      make("h4", {}, `${this.part.name}, example ${this.table.id[place]}`),
      make("p", { class: "prompt" }, this.table.prompt[place]),
      make("p", {}, "Right answer: ", make("b", {}, this.table.gold[place])),
      make("div", { class: "beside" }, ...[this.method.value, ...beside].map((name) => this.drawMethod(name, place))));
  }

  drawMethod(name, place) {
    const method = this.table.methods[name];
    const [mark, kindOf, kind] = OUTCOMES[method.outcome[place]];
    const word = method.outcome[place] === "s" ? `score ${method.score[place] ?? "only over all examples"}` : kindOf;
    const answer = method.answer[place];
    const head = make("p", { class: "judgement" }, make("b", {}, name), " ",
      make("span", { class: `outcome ${kind}` }, `${mark} ${word}`), answer === null ? "" : ` answer: ${answer}`);
    const text = method.text[place];
    const whole = text === null ? null : make("p", { class: "text" }, text || "(no text)");
    const steps = method.tokens?.[place].length ? this.drawTokens(name, method, place) : null;
    return make("section", { class: "method", "aria-label": `${name}: ${word}` }, head, whole, steps);
  }

  // One stop of the Tab key a text: arrows move along its tokens, and the line under it says what is at one.
  drawTokens(name, method, place) {
    const detail = make("p", { class: "detail", "aria-hidden": "true" });
    const width = method.experts.length;
    const buttons = method.tokens[place].map((token, step) => {
      const weights = method.weights[place].slice(step * width, (step + 1) * width);
      const chosen = method.experts[method.expert[place][step]];
      const shares = method.experts.map((expert, number) => `${expert} ${(weights[number] / 1000).toFixed(3)}`);
      const words = `token ${step + 1}, ${showToken(token)}: ${shares.join(", ")}; chosen: ${chosen ?? "none"}`;
      const tell = () => { detail.textContent = words; };
      const style = `--expert:${this.track.colours[chosen] ?? NO_EXPERT};--bars:${this.drawBars(method.experts, weights)}`;
      return make("button", {
        type: "button", class: "token", style, "aria-label": words, tabindex: step ? -1 : 0,
        onfocus: tell, onmouseenter: tell, onclick: tell,
      }, showToken(token));
    });
    const tokens = make("div", { class: "tokens", role: "group", "aria-label": `tokens of ${name}`, onkeydown: moveAlong },
      ...buttons);
    return make("div", {}, tokens, detail);
  }

  // The line at weight 1, then experts from the bottom up, as pictures of one background.
  drawBars(experts, weights) {
    const share = (weight) => `${((100 * weight) / this.scale).toFixed(1)}%`;
    let bottom = 0;
    const stops = experts.map((expert, number) => {
      const start = bottom;
      bottom += Math.max(weights[number], 0);
      return `${this.track.colours[expert]} ${share(start)} ${share(bottom)}`;
    });
    const one = `linear-gradient(to top,transparent ${share(980)},#555 ${share(980)} ${share(1060)},transparent ${share(1060)})`;
    return `${one},linear-gradient(to top,${[...stops, `#eee ${share(bottom)}`].join(",")})`;
  }
}

function largestSum(method) {
  const width = method.experts.length;
  let largest = 0;
  for (const weights of method.weights ?? []) {
    for (let start = 0; start < weights.length; start += width) {
      let sum = 0;
      for (let place = start; place < start + width; place++) sum += Math.max(weights[place], 0);
      largest = Math.max(largest, sum);
    }
  }
  return largest;
}

function moveAlong(event) {
  const buttons = [...event.currentTarget.children];
  const place = buttons.indexOf(document.activeElement);
  const moves = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: buttons.length - 1 };
  const target = buttons[moves[event.key]];
  if (!target) return;
  event.preventDefault();
  buttons[place].tabIndex = -1;
  target.tabIndex = 0;
  target.focus();
}

function textOf(method, place) { return method.text[place] ?? method.tokens[place].join(""); }

function showToken(token) { return token.replaceAll("\n", "↵").replaceAll(" ", "␣") || "(empty)"; }
