// Runs before the first paint, so that a chosen theme does not flash the other one.
try {
  const theme = JSON.parse(localStorage.getItem("ostro.playground") || "{}").theme;
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // No storage, or something else in it: the system's theme it is.
}
