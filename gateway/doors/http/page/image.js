// The image of a conversation: dropped, pasted or chosen. The server reads its bytes as they are.

const drop = document.getElementById("drop");
const file = document.getElementById("file");
const preview = document.getElementById("preview");
const remove = document.getElementById("remove");

let image = null; // a File
let shown = ""; // the URL of its preview
let changed = () => {};
let refused = () => {};

export function onImageChange(listener) {
  changed = listener;
}

// What was dropped, pasted or chosen is no image: `listener` gets a text that says so.
export function onRefusal(listener) {
  refused = listener;
}

export function hasImage() {
  return image !== null;
}

// The image as a data URL; null without one.
export function imageUrl() {
  if (image === null) return Promise.resolve(null);
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("the image cannot be read; choose it again"));
    reader.readAsDataURL(image);
  });
}

export function setImage(found) {
  URL.revokeObjectURL(shown);
  image = found;
  shown = found === null ? "" : URL.createObjectURL(found);
  if (found === null) {
    preview.removeAttribute("src");
    file.value = "";
  } else {
    preview.src = shown;
    preview.alt = `Your image: ${found.name}`;
  }
  preview.hidden = remove.hidden = found === null;
  changed();
}

function take(files) {
  const found = [...files].find((each) => each.type.startsWith("image/"));
  if (found) setImage(found);
  else if (files.length) refused(`${files[0].name} is not an image; choose a JPEG, PNG or WebP file.`);
  return Boolean(found);
}

file.addEventListener("change", () => take(file.files));
remove.addEventListener("click", () => {
  setImage(null);
  file.focus();
});
document.addEventListener("paste", (event) => {
  if (take(event.clipboardData.files)) event.preventDefault();
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault(); // else the browser would open the file
    drop.classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files);
  });
}
