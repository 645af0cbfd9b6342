// The slider of a film shows one of its frames.
document.addEventListener("input", (event) => {
  const film = event.target.closest?.(".film");
  if (!film || event.target.type !== "range") return;
  film.querySelectorAll(":scope > .frame").forEach((frame, place) => {
    frame.hidden = place !== Number(event.target.value);
    if (!frame.hidden) {
      film.querySelector("output").textContent = frame.dataset.name;
      event.target.setAttribute("aria-valuetext", frame.dataset.name);
    }
  });
});
