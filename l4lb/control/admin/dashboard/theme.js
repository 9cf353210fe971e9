// Light or dark: as the system has it, or as the operator chose. The choice is kept, for it is no secret.

const KEY = "l4lb-theme";
const NEXT = {automatic: "dark", dark: "light", light: "automatic"};

function apply(button, theme) {
  if (theme === "automatic") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  button.textContent = `Theme: ${theme}`;
}

export function startTheme(button) {
  let theme = localStorage.getItem(KEY);
  if (!(theme in NEXT)) theme = "automatic";
  apply(button, theme);
  button.addEventListener("click", () => {
    theme = NEXT[theme];
    localStorage.setItem(KEY, theme);
    apply(button, theme);
  });
}
