// Why two shoes are alike, region by region.

import { ask, find } from "./api.js";

/** Show which regions of two shoes the likeness rests on. `form` makes what is sent. */
export async function explain(form) {
  const dialog = find("#why");
  const [one, other] = [find("#why-query"), find("#why-result")];
  for (const canvas of [one, other]) canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
  find("#why-words").textContent = "Comparing…";
  dialog.showModal();
  try {
    const found = await ask("why", { form: await form() });
    await Promise.all([paint(one, found.query), paint(other, found.result)]);
    find("#why-words").textContent =
      "The likeness rests on what is lit: with that region hidden, the two would be farther apart. What is dark makes no difference, or sets them apart.";
  } catch (error) {
    find("#why-words").textContent = error.message;
  }
}

/** A photo that is dark where it does not count. */
async function paint(canvas, { seen, regions }) {
  const image = new Image();
  image.src = seen;
  await image.decode();
  const grid = new ImageData(regions.length, regions.length);
  regions.flat().forEach((heat, i) => grid.data.set([12, 34, 40, Math.round(205 * (1 - Math.sqrt(heat)))], 4 * i));
  const small = document.createElement("canvas");
  small.width = small.height = regions.length;
  small.getContext("2d").putImageData(grid, 0, 0);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

find("#why-close").addEventListener("click", () => find("#why").close());
find("#why").addEventListener("click", (event) => {
  if (event.target === find("#why")) find("#why").close();
});
