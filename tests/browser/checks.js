// What is wrong with the page that is open, each as a sentence; run in the page by browser.py.
({
  visible(element) {
    return element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true })
      && element.getClientRects().length > 0
      && !element.closest("[data-unseen], .sr-only, .visually-hidden, .dt-hidden");
  },

  // Text is as large as its font on the screen: in an SVG, times the drawing's scale.
  smallText(least) {
    const found = new Map();
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const parent = walker.currentNode.parentElement;
      if (!walker.currentNode.data.trim() || !this.visible(parent) || parent.closest("script, style, noscript, option")) continue;
      const matrix = parent.ownerSVGElement ? parent.getScreenCTM() : null;
      const scale = matrix ? Math.hypot(matrix.c, matrix.d) : 1;
      const size = scale * parseFloat(getComputedStyle(parent).fontSize);
      const box = parent.getBoundingClientRect();
      const off = box.right < 0 || box.bottom < 0;
      if (size < least - 0.05 && !off) found.set(`${size.toFixed(1)} px: "${walker.currentNode.data.trim().slice(0, 40)}"`, true);
    }
    return [...found.keys()];
  },

  brokenPictures() {
    return [...document.images].filter((one) => this.visible(one) && !(one.complete && one.naturalWidth > 0))
      .map((one) => `broken picture: ${one.alt || one.src.slice(0, 60)}`);
  },

  emptyDrawings() {
    return [...document.querySelectorAll("svg")].filter((one) => !one.closest("[aria-hidden=true]") && this.visible(one))
      .filter((one) => one.getBBox().width === 0).map((one) => `empty drawing: ${one.id || one.outerHTML.slice(0, 60)}`);
  },

  // Text that a drawing has beyond its edge.
  cutText() {
    const problems = [];
    for (const text of document.querySelectorAll("svg text")) {
      const [inner, outer] = [text.getBoundingClientRect(), text.ownerSVGElement.getBoundingClientRect()];
      const out = inner.left < outer.left - 1 || inner.right > outer.right + 1 || inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1;
      if (out && inner.width) problems.push(`cut off: "${text.textContent.trim().slice(0, 40)}"`);
    }
    return problems;
  },

  tables() {
    const problems = [];
    for (const table of document.querySelectorAll("table")) {
      const named = table.caption || table.getAttribute("aria-label") || table.getAttribute("aria-labelledby");
      if (!named && this.visible(table)) problems.push(`table without a name: ${table.innerText.slice(0, 40)}`);
      for (const cell of table.querySelectorAll("th:not([scope])")) problems.push(`th without scope: ${cell.innerText}`);
    }
    return problems;
  },

  // Columns that are seen only after a scroll to the side; the tidy table alone has as many as the file.
  hiddenColumns() {
    return [...document.querySelectorAll("table.results:not(.tidy)")].filter((one) => this.visible(one))
      .map((one) => [one, one.closest(".dt-layout-table") ?? one.parentElement])
      .filter(([, box]) => box.scrollWidth > box.clientWidth)
      .map(([one, box]) => `${one.id} is ${box.scrollWidth} px wide in ${box.clientWidth}`);
  },

  overflow() {
    const { scrollWidth, clientWidth } = document.documentElement;
    return scrollWidth > clientWidth ? [`scrolls to the side: ${scrollWidth} px of content in ${clientWidth}`] : [];
  },

  duplicateIds() {
    const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
    const shared = ids.filter((id, place) => ids.indexOf(id) !== place && document.querySelectorAll(`:is(label)[for="${CSS.escape(id)}"]`).length);
    return shared.map((id) => `two labelled elements have the id ${id}`);
  },

})
