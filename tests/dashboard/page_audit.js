// Every control has a name, and every text a contrast of 4.5 against what it stands on.
() => {
  const found = [];
  const named = (node) => {
    const label = node.labels?.[0]?.textContent || node.getAttribute("aria-label") || node.title;
    const by = document.getElementById(node.getAttribute("aria-labelledby") || "");
    return (label || by?.textContent || node.textContent || "").trim();
  };
  for (const node of document.querySelectorAll("button, input, select, a[href], [role=grid], canvas[tabindex], dialog[open], nav, section")) {
    if (!named(node) && node.checkVisibility()) found.push("no name: " + node.outerHTML.slice(0, 120));
  }
  const parse = (text) => (text.match(/[\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => {
    const part = (c) => ((c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0.99) return colour;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !node.checkVisibility({ visibilityProperty: true })) continue;
    if (node.closest("svg, :disabled, noscript, script, style")) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) found.push(contrast.toFixed(2) + ": " + node.className + " " + node.textContent.slice(0, 40));
  }
  return [...new Set(found)];
}
