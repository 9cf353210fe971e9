// Tables that are wider than the page can be scrolled by keyboard.
new MutationObserver(() => {
  for (const wide of document.querySelectorAll(".md-typeset__scrollwrap:not([tabindex])")) wide.tabIndex = 0;
}).observe(document.documentElement, {childList: true, subtree: true});
