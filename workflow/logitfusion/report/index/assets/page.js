"use strict";
// What every section may use: data that the page carries, and a place to say that something went wrong.
const loaded = {};

async function unpack(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (one) => one.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

function loadData(name) {
  loaded[name] ??= unpack("data-" + name).then(JSON.parse);
  return loaded[name];
}

function section(anchor, run) {
  run().catch((error) => {
    console.error(error);
    const note = document.createElement("p");
    note.className = "problem";
    note.textContent = "This part needs a newer browser; the page's tables can be read without it (" + error + ").";
    document.getElementById(anchor).querySelector("h2").after(note);
  });
}

// Jumps without a change of address: the page may be in a frame that has none.
function jump(event) {
  const target = document.getElementById(event.currentTarget.hash.slice(1));
  if (!target) return;
  event.preventDefault();
  target.scrollIntoView();
  target.tabIndex = -1;
  target.focus({ preventScroll: true });
}
document.querySelectorAll("a[href^='#']").forEach((link) => link.addEventListener("click", jump));

// The entry of the section that is read.
const entries = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
function markCurrent() {
  const edge = document.querySelector("header").offsetHeight + 40;
  const sections = [...document.querySelectorAll("main > section")];
  const current = sections.filter((one) => one.getBoundingClientRect().top <= edge).pop() ?? sections[0];
  entries.forEach((link, anchor) =>
    anchor === current.id ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current"),
  );
}
document.addEventListener("scroll", markCurrent, { passive: true });
markCurrent();
