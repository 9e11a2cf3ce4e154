// What is wrong with how a page of the documentation stands in its window.
() => {
  const article = document.querySelector("article");
  const width = document.documentElement.clientWidth;
  const own = (element) => element.closest(".md-typeset__scrollwrap, pre, .highlight, .md-nav");

  // A word is broken where it has more than one line of its own.
  const broken = [];
  for (const cell of article.querySelectorAll("td, th")) {
    const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const node = walker.currentNode;
      for (const word of node.data.matchAll(/[\p{L}\p{N}_]{2,}/gu)) {
        const range = document.createRange();
        range.setStart(node, word.index);
        range.setEnd(node, word.index + word[0].length);
        const lines = new Set([...range.getClientRects()].map((each) => Math.round(each.top)));
        if (lines.size > 1) broken.push(word[0]);
      }
    }
  }

  const outside = [];
  for (const element of article.querySelectorAll("p, li, h1, h2, h3, h4, a")) {
    const box = element.getBoundingClientRect();
    if (box.width && !own(element) && (box.right > width + 1 || box.left < -1)) {
      outside.push(element.textContent.trim().slice(0, 60));
    }
  }

  const pictures = [...article.querySelectorAll("img")]
    .filter((each) => each.complete && (!each.naturalWidth || each.alt.length < 20))
    .map((each) => each.getAttribute("src"));

  return { scrolls: document.documentElement.scrollWidth - width, broken, outside, pictures };
}
