"use strict";
// A choice of versions, in the site that docs/publish.py makes. Alone, pages have none.
addEventListener("DOMContentLoaded", () => {
  const root = new URL(document.documentElement.dataset.content_root, location.href);
  const list = document.createElement("script");
  list.src = new URL("../versions.js", root);
  list.onload = () => {
    const here = root.pathname.split("/").at(-2);
    const page = location.pathname.slice(root.pathname.length);
    const select = document.createElement("select");
    for (const version of Object.keys(window.versions)) {
      select.add(new Option(version, version, false, version === here));
    }
    select.onchange = () => {
      const there = window.versions[select.value].includes(page) ? page : "index.html";
      location.href = new URL(`../${select.value}/${there}`, root);
    };
    const label = document.createElement("label");
    label.className = "versions";
    label.append("Version", select);
    document.querySelector(".sidebar-brand").after(label);
  };
  document.head.append(list);
});
