"use strict";
(async () => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const { height, width } = page.picture;
  // Okabe and Ito's colours, which colour-blind readers tell apart, in an order that suits images.
  const COLOURS = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#0072b2", "#dddddd"];
  const HEAT = [[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]];
  const VIEWS = [
    ["samples", "Listens to", "What the node under the pointer samples"],
    ["listeners", "Who listens", "Which nodes sample the node under the pointer"],
    ["density", "Density", "How much all nodes together listen to each node"],
  ];
  const NOT_FINITE = -32768;
  const BINS = { first: -6, perDecade: 5, count: 35 };
  const MOST_PINS = 6;
  const MOST_ROWS = 8;

  const shared = { view: "samples", cursor: { y: 0.75, x: 0.5 }, pins: [], read: true, blend: {} };
  const panels = [];

  // ---- Elements, with text as text: names come from elsewhere.

  function fill(element, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== null && value !== false) element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }
  const el = (tag, attributes = {}, ...children) =>
    fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes = {}, ...children) =>
    fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

  function swatch(colour, square) {
    const mark = el("span", { class: square ? "swatch square" : "swatch", "aria-hidden": "true" });
    mark.style.background = colour;
    return mark;
  }

  /** Buttons of which one is chosen, as tabs or as radio buttons; arrow keys go from one to the next. */
  function choice(name, options, chosen, choose, role = "radio") {
    const go = async (i) => {
      await choose(options[i][0]);
      // The buttons are new ones then.
      document.querySelector(`[data-choice="${CSS.escape(name)}"]`)?.children[i + 1]?.focus();
    };
    const buttons = options.map(([value, text, title], i) => {
      const attributes = { type: "button", role, title: title ?? null };
      attributes[role === "tab" ? "aria-selected" : "aria-checked"] = value === chosen;
      attributes.tabindex = value === chosen ? 0 : -1;
      attributes.onclick = () => go(i);
      attributes.onkeydown = (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        go((i + step + options.length) % options.length);
      };
      return el("button", attributes, text);
    });
    const label = name.replace(/^\d+ /, "");
    const group = role === "tab" ? "tablist" : "radiogroup";
    return el("div", { class: "choice", role: group, "aria-label": label, "data-choice": name },
      el("span", { "aria-hidden": "true" }, label), ...buttons);
  }

  const hex = (rgb) => `rgb(${rgb[0]} ${rgb[1]} ${rgb[2]})`;
  const power = (exponent) => `10${[...String(exponent)].map((c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] ?? "⁻").join("")}`;
  const number = (x) => {
    const small = Math.abs(x) < 0.001 && x !== 0;
    const exponent = small ? Math.floor(Math.log10(Math.abs(x))) : 0;
    return small ? `${(x / 10 ** exponent).toFixed(1)}·${power(exponent)}` : String(Number(x.toPrecision(2)));
  };
  const size = (shape) => `${shape[0]} × ${shape[1]}`;
  const className = (i) => page.classes[i] ?? `class ${i}`;
  const classColour = (i) => hex(page.palette[i] ?? [128, 128, 128]);

  // ---- Data

  async function unpack(packed) {
    const text = atob(packed.data);
    const bytes = Uint8Array.from(text, (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const planes = new Uint8Array(await new Response(stream).arrayBuffer());
    const types = { int8: Int8Array, uint8: Uint8Array, int16: Int16Array, uint16: Uint16Array };
    const values = new types[packed.type](packed.shape.reduce((a, b) => a * b, 1));
    const row = packed.shape[packed.shape.length - 1];
    const wide = values.BYTES_PER_ELEMENT === 2;
    for (let i = 0, sum = 0; i < values.length; i++) {
      if (i % row === 0) sum = 0;
      sum += wide ? planes[i] | (planes[values.length + i] << 8) : planes[i];
      values[i] = sum; // wraps around, as the differences do
    }
    return values;
  }

  /** The radii of dots as weights, [G, K, N]. */
  async function unpackWeights(packed) {
    const steps = packed.type === "int8" ? 127 : 255;
    const weights = Float32Array.from(await unpack(packed));
    for (let i = 0; i < weights.length; i++) {
      const share = weights[i] / steps;
      weights[i] = packed.scale * share * Math.abs(share);
    }
    return { groups: packed.shape[0], scale: packed.scale, values: weights };
  }

  async function loadLayer(packed) {
    const [heads, count, , nodes] = packed.pos.shape;
    const offsets = await unpack(packed.pos);
    const kinds = {};
    for (const [kind, weights] of Object.entries(packed.weights)) kinds[kind] = await unpackWeights(weights);
    if (kinds.filters && kinds.affinities) kinds.products = product(kinds.filters, kinds.affinities);
    const setOf = packed.sets.flatMap((set, i) => Array(set.num_samples).fill(i));
    const layer = { packed, heads, count, nodes, kinds, setOf };
    layer.y = new Float32Array(nodes);
    layer.x = new Float32Array(nodes);
    layer.first = [];
    if (packed.maps.length) {
      let n = 0;
      packed.maps.forEach((map, m) => {
        layer.first.push(n);
        const [start, stored] = [startOf(packed, m), packed.stored[m]];
        for (let r = 0; r < stored[0]; r++) {
          for (let c = 0; c < stored[1]; c++, n++) {
            layer.y[n] = (start[0] + r * packed.every + 0.5) / map[0];
            layer.x[n] = (start[1] + c * packed.every + 0.5) / map[1];
          }
        }
      });
    } else {
      packed.places.forEach((place, i) => { (i % 2 ? layer.x : layer.y)[i >> 1] = place; });
    }
    layer.mapOf = setOf.map((set) => packed.senders[packed.sets[set].level]);
    /** Calls visit(n, y, x) for the sample k of head h of some nodes, in nodes of its map. */
    layer.each = (h, k, visit, from = 0, to = nodes) => {
      const [rows, columns] = layer.mapOf[k];
      const { step } = packed.pos;
      const plane = (h * count + k) * 2 * nodes;
      for (let n = from; n < to; n++) {
        const dy = offsets[plane + n], dx = offsets[plane + nodes + n];
        if (dy === NOT_FINITE || dx === NOT_FINITE) continue;
        visit(n, layer.y[n] * rows - 0.5 + dy * step, layer.x[n] * columns - 0.5 + dx * step);
      }
    };
    return layer;
  }

  function product(filters, affinities) {
    const values = filters.values.slice();
    for (let i = 0; i < values.length; i++) values[i] *= affinities.values[i % affinities.values.length];
    const scale = values.reduce((most, w) => Math.max(most, Math.abs(w)), 0);
    return { groups: filters.groups, scale, values };
  }

  const startOf = (packed, m) => packed.maps[m].map((n) => Math.min(packed.every >> 1, n - 1));

  /** The stored node at a place of the covered area. */
  function nodeAt(panel, y, x) {
    const { layer } = panel;
    const { packed } = layer;
    if (!packed.maps.length) {
      let best = 0;
      for (let n = 1; n < layer.nodes; n++) {
        const far = (i) => (layer.y[i] - y) ** 2 + (layer.x[i] - x) ** 2;
        if (far(n) < far(best)) best = n;
      }
      return { index: best, y: layer.y[best], x: layer.x[best] };
    }
    const [start, stored, map] = [startOf(packed, panel.map), packed.stored[panel.map], packed.maps[panel.map]];
    const [r, c] = [y, x].map((f, a) => {
      const nearest = Math.round((Math.floor(f * map[a]) - start[a]) / packed.every);
      return Math.max(0, Math.min(stored[a] - 1, nearest));
    });
    const index = layer.first[panel.map] + r * stored[1] + c;
    return { index, r, c, row: start[0] + r * packed.every, column: start[1] + c * packed.every,
      y: layer.y[index], x: layer.x[index] };
  }

  /** What is chosen: heads with samples of their own, the samples of each, and their weights. */
  function chosen(panel) {
    const { layer, group } = panel;
    const { groups, values } = layer.kinds[panel.kind];
    const own = layer.heads > 1;
    const heads = !own ? [0] : group < 0 ? [...Array(layer.heads).keys()] : [group];
    const samples = [...Array(layer.count).keys()].filter((k) => panel.sets.has(layer.setOf[k]));
    const at = (g, k, n) => values[(g * layer.count + k) * layer.nodes + n];
    const weight = own ? (h, k, n) => at(groups > 1 ? h : 0, k, n)
      : group >= 0 ? (h, k, n) => at(groups > 1 ? group : 0, k, n)
      : groups === 1 ? (h, k, n) => at(0, k, n)
      : (h, k, n) => {
        let sum = 0;
        for (let g = 0; g < groups; g++) sum += Math.abs(at(g, k, n));
        return sum / groups;
      };
    return { heads, samples, weight };
  }

  function samplesOf(panel, n) {
    const { layer } = panel;
    const { heads, samples, weight } = chosen(panel);
    const found = [];
    for (const h of heads) {
      for (const k of samples) {
        layer.each(h, k, (_, y, x) => {
          found.push({ head: h, sample: k, set: layer.setOf[k], map: layer.mapOf[k], y, x, weight: weight(h, k, n) });
        }, n, n + 1);
      }
    }
    return found;
  }

  /** How much of the way from one point to another lies inside the image. */
  function inside(from, to, lengths) {
    const shares = lengths.map((length, a) => {
      const way = to[a] - from[a];
      return to[a] > length ? (length - from[a]) / way : to[a] < 0 ? from[a] / -way : 1;
    });
    return Math.max(0, Math.min(...shares));
  }

  function* corners(y, x, map) {
    for (const r of [Math.floor(y), Math.floor(y) + 1]) {
      for (const c of [Math.floor(x), Math.floor(x) + 1]) {
        if (r < 0 || c < 0 || r >= map[0] || c >= map[1]) continue;
        yield [r, c, (1 - Math.abs(y - r)) * (1 - Math.abs(x - c))];
      }
    }
  }

  /** How much each stored node listens to the node at a place. */
  function listeners(panel, y, x) {
    const { layer } = panel;
    const { heads, samples, weight } = chosen(panel);
    const heat = new Float32Array(layer.nodes);
    for (const h of heads) {
      for (const k of samples) {
        const map = layer.mapOf[k];
        const [r, c] = [y, x].map((f, a) => Math.min(map[a] - 1, Math.floor(f * map[a])));
        layer.each(h, k, (n, sampleY, sampleX) => {
          const dy = Math.abs(sampleY - r), dx = Math.abs(sampleX - c);
          if (dy < 1 && dx < 1) heat[n] += (1 - dy) * (1 - dx) * Math.abs(weight(h, k, n));
        });
      }
    }
    return heat;
  }

  /** How much is listened to each node of the finest map that is chosen, in shares of the mean. */
  function density(panel) {
    const { layer } = panel;
    const { heads, samples, weight } = chosen(panel);
    const maps = new Map();
    for (const k of samples) {
      const { level } = layer.packed.sets[layer.setOf[k]];
      const map = layer.mapOf[k];
      if (!maps.has(level)) maps.set(level, { map, heat: new Float32Array(map[0] * map[1]) });
      const { heat } = maps.get(level);
      for (const h of heads) {
        layer.each(h, k, (n, y, x) => {
          const w = Math.abs(weight(h, k, n));
          for (const [r, c, share] of corners(y, x, map)) heat[r * map[1] + c] += share * w;
        });
      }
    }
    const levels = [...maps.values()];
    if (!levels.length) return { map: [1, 1], heat: new Float32Array(1) };
    const { map } = levels.reduce((a, b) => (b.map[0] * b.map[1] > a.map[0] * a.map[1] ? b : a));
    const heat = new Float32Array(map[0] * map[1]);
    for (let r = 0, i = 0; r < map[0]; r++) {
      for (let c = 0; c < map[1]; c++, i++) {
        for (const level of levels) {
          const [lr, lc] = [Math.floor(((r + 0.5) / map[0]) * level.map[0]), Math.floor(((c + 0.5) / map[1]) * level.map[1])];
          heat[i] += level.heat[lr * level.map[1] + lc] * level.map[0] * level.map[1];
        }
      }
    }
    const mean = heat.reduce((a, b) => a + b, 0) / heat.length || 1;
    return { map, heat: heat.map((value) => value / mean) };
  }

  function binOf(weight) {
    const bin = Math.floor((Math.log10(Math.abs(weight)) - BINS.first) * BINS.perDecade);
    return Math.max(0, Math.min(BINS.count - 1, weight === 0 ? 0 : bin));
  }

  function histogram(layer, kind, node) {
    const { values } = layer.kinds[kind];
    const bins = Array(BINS.count).fill(0);
    const step = node === null ? 1 : layer.nodes;
    for (let i = node ?? 0; i < values.length; i += step) bins[binOf(values[i])]++;
    return bins;
  }

  // ---- A panel for each model

  function colourOf(panel, sample) {
    const { layer } = panel;
    const by = layer.packed.sets.length > 1 ? sample.set : layer.heads > 1 ? sample.head : 0;
    return COLOURS[by % COLOURS.length];
  }

  const groupWord = (layer) => (layer.heads > 1 ? "head" : "group");

  function shortNames(layers) {
    const paths = layers.map((layer) => layer.name.split("."));
    const least = Math.min(...paths.map((path) => path.length));
    let [from, to] = [0, 0];
    while (from < least - 1 && paths.every((path) => path[from] === paths[0][from])) from++;
    const end = (path, i) => path[path.length - 1 - i];
    while (to < least - 1 - from && paths.every((path) => end(path, to) === end(paths[0], to))) to++;
    return paths.map((path) => path.slice(from, path.length - to).join("."));
  }

  async function makePanel(model, number) {
    const panel = { model, number, layerNumber: 0, names: shortNames(model.layers), loaded: [] };
    panel.root = el("section", { class: "panel", "aria-label": model.name });
    panel.head = el("div", { class: "title" });
    panel.controls = el("div", { class: "controls" });
    panel.stage = el("div", {
      class: "stage", tabindex: 0, role: "application",
      "aria-roledescription": "image with nodes",
      "aria-label": `${model.name}: arrow keys move to other nodes, Enter pins one, Escape removes the pins`,
    });
    panel.image = el("img", { alt: page.title || "the image", src: `data:image/jpeg;base64,${page.picture.data}`, draggable: "false" });
    if (width < 400) panel.image.classList.add("pixelated");
    panel.prediction = el("canvas", { class: "pixelated", "aria-hidden": "true" });
    panel.label = el("canvas", { class: "pixelated", "aria-hidden": "true" });
    panel.heat = el("canvas", { class: "heat", "aria-hidden": "true", hidden: "" });
    panel.drawing = svg("svg", { "aria-hidden": "true" });
    panel.flags = el("div", {});
    panel.stage.append(panel.image, panel.prediction, panel.label, panel.heat, panel.drawing, panel.flags);
    panel.stage.style.aspectRatio = `${width} / ${height}`;
    panel.stage.style.maxWidth = `calc(74vh * ${width / height})`;
    panel.under = el("div", { class: "under" });
    panel.info = el("div", { class: "info" });
    panel.root.append(panel.head, panel.controls, panel.stage, panel.under, panel.info);
    listen(panel);
    await paintFindings(panel);
    if (model.layers.length) await chooseLayer(panel, 0);
    return panel;
  }

  async function chooseLayer(panel, layerNumber) {
    panel.loaded[layerNumber] ??= await loadLayer(panel.model.layers[layerNumber]);
    panel.layer = panel.loaded[layerNumber];
    panel.layerNumber = layerNumber;
    const { packed, kinds } = panel.layer;
    panel.kind = Object.keys(kinds).includes(panel.kind) ? panel.kind : Object.keys(kinds)[0];
    panel.group = -1;
    panel.sets = new Set(packed.sets.keys());
    panel.map = 0;
    change(panel);
  }

  function change(panel) {
    panel.density = null;
    drawControls(panel);
    draw();
  }

  function drawControls(panel) {
    const { model, layer, number } = panel;
    const { packed } = layer;
    const id = (name) => `${number} ${name}`;
    const at = packed.maps.length ? packed.maps.map(size).join(", ") + " nodes" : `${layer.nodes} queries`;
    panel.head.replaceChildren(
      el("h2", {}, model.name),
      el("p", {}, `${packed.kind} at ${packed.name || "the top"}, ${at}, ${packed.samples} samples`
        + (layer.heads > 1 ? ` for each of ${layer.heads} ${groupWord(layer)}s` : "")),
    );
    const parts = [];
    const layers = model.layers.map((each, i) => [i, panel.names[i], `${each.kind} at ${each.name}`]);
    const stageOf = (i) => size(model.layers[i].maps[0] ?? ["queries", model.layers[i].pos.shape[3]]);
    const stages = [...new Set(layers.map(([i]) => stageOf(i)))];
    const now = stageOf(panel.layerNumber);
    if (stages.length > 1) {
      const first = (stage) => layers.find(([i]) => stageOf(i) === stage)[0];
      const options = stages.map((stage) => [stage, stage.replace("queries × ", "queries "), null]);
      parts.push(choice(id("map"), options, now, (stage) => chooseLayer(panel, first(stage)), "tab"));
    }
    const here = layers.filter(([i]) => stageOf(i) === now);
    if (layers.length > 1) {
      parts.push(choice(id("layer"), here, panel.layerNumber, (i) => chooseLayer(panel, i), "tab"));
    }
    const kinds = Object.keys(layer.kinds);
    if (kinds.length > 1) {
      const options = kinds.map((kind) => [kind, kind, kind === "products" ? "filters × affinities" : null]);
      parts.push(choice(id("weights"), options, panel.kind, (kind) => { panel.kind = kind; change(panel); }, "tab"));
    }
    const groups = Math.max(layer.heads, layer.kinds[panel.kind].groups);
    if (groups > 1) {
      const options = [[-1, "all"], ...[...Array(groups).keys()].map((g) => [g, String(g + 1)])];
      parts.push(choice(id(groupWord(layer)), options, panel.group, (g) => { panel.group = g; change(panel); }));
    } else {
      panel.group = -1;
    }
    if (packed.sets.length > 1) {
      const buttons = packed.sets.map((set, i) => {
        const toggle = () => {
          if (panel.sets.has(i) && panel.sets.size > 1) panel.sets.delete(i);
          else panel.sets.add(i);
          change(panel);
        };
        return el("button", { type: "button", "aria-pressed": panel.sets.has(i), onclick: toggle },
          swatch(COLOURS[i % COLOURS.length]), set.name);
      });
      const word = packed.senders.length > 1 ? "on maps" : "samples";
      parts.push(el("div", { class: "choice", role: "group", "aria-label": word },
        el("span", { "aria-hidden": "true" }, word), ...buttons));
    }
    if (packed.maps.length > 1) {
      const options = packed.maps.map((map, m) => [m, size(map)]);
      parts.push(choice(id("node of map"), options, panel.map, (m) => { panel.map = m; change(panel); }));
    }
    panel.controls.replaceChildren(...parts);
  }

  // ---- Predictions and labels

  function paint(canvas, classes, colour) {
    canvas.width = width;
    canvas.height = height;
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(width, height);
    for (let i = 0; i < classes.length; i++) {
      const rgb = colour(classes[i]);
      if (rgb) pixels.data.set([rgb[0], rgb[1], rgb[2], 255], 4 * i);
    }
    context.putImageData(pixels, 0, 0);
  }

  async function paintFindings(panel) {
    const { segmentation, objects } = panel.model;
    if (segmentation) {
      panel.classes = await unpack(segmentation.classes);
      panel.scores = await unpack(segmentation.scores);
      panel.best = await unpack(segmentation.best);
      paint(panel.prediction, panel.classes, (c) => page.palette[c]);
    }
    if (objects) {
      await paintMasks(panel.prediction, objects);
      panel.flags.append(...objects.boxes.map((box, i) => {
        const flag = el("span", { class: "flag" }, ...objectName(objects, i));
        flag.style.left = `${(100 * Math.max(0, box[0])) / width}%`;
        flag.style.top = `${(100 * Math.max(0, box[1])) / height}%`;
        return flag;
      }));
    }
    if (page.label) {
      shared.label ??= await unpack(page.label);
      paint(panel.label, shared.label, (c) => page.palette[c]);
    }
    if (page.objects) await paintMasks(panel.label, page.objects);
  }

  async function paintMasks(canvas, objects) {
    if (!objects.masks) return;
    paint(canvas, await unpack(objects.masks), (m) => (m ? page.palette[objects.labels[m - 1]] : null));
  }

  function objectName({ labels, scores }, i) {
    const name = className(labels[i]);
    return [swatch(classColour(labels[i]), true), scores ? `${name} ${scores[i].toFixed(2)}` : name];
  }

  function scoresAt(panel, pixel) {
    const { every, scores } = panel.model.segmentation;
    const [classes, rows, columns] = scores.shape;
    const cell = (at, count) => Math.max(0, Math.min(count - 1, Math.round((at - (every >> 1)) / every)));
    const place = cell(pixel[0], rows) * columns + cell(pixel[1], columns);
    return [...Array(classes).keys()].map((i) => {
      const at = i * rows * columns + place;
      return [panel.best[at], panel.scores[at] / 255];
    });
  }

  // ---- The pointer

  function moveTo(y, x) {
    shared.cursor = { y: Math.max(0, Math.min(0.999999, y)), x: Math.max(0, Math.min(0.999999, x)) };
    draw();
  }

  function nodeUnder(panel, cursor) {
    return nodeAt(panel, cursor.y / panel.model.cover[0], cursor.x / panel.model.cover[1]);
  }

  function togglePin(panel) {
    const under = (cursor) => nodeUnder(panel, cursor).index;
    const same = shared.pins.findIndex((pin) => under(pin) === under(shared.cursor));
    if (same >= 0) shared.pins.splice(same, 1);
    else shared.pins = [...shared.pins, { ...shared.cursor }].slice(-MOST_PINS);
    draw();
  }

  function walk(panel, dr, dc) {
    const { packed } = panel.layer;
    const node = nodeUnder(panel, shared.cursor);
    if (!packed.maps.length) {
      const next = (node.index + dr + dc + panel.layer.nodes) % panel.layer.nodes;
      moveTo(panel.layer.y[next] * panel.model.cover[0], panel.layer.x[next] * panel.model.cover[1]);
      return;
    }
    const [stored, map, start] = [packed.stored[panel.map], packed.maps[panel.map], startOf(packed, panel.map)];
    const to = (at, step, axis) => {
      const next = Math.max(0, Math.min(stored[axis] - 1, at + step));
      return ((start[axis] + next * packed.every + 0.5) / map[axis]) * panel.model.cover[axis];
    };
    moveTo(to(node.r, dr, 0), to(node.c, dc, 1));
  }

  function listen(panel) {
    const { stage } = panel;
    let before = null;
    const look = (event) => {
      const box = stage.getBoundingClientRect();
      moveTo((event.clientY - box.top) / box.height, (event.clientX - box.left) / box.width);
    };
    stage.addEventListener("pointermove", look);
    stage.addEventListener("pointerdown", (event) => {
      before = event.pointerType === "touch" ? nodeUnder(panel, shared.cursor).index : null;
      look(event);
    });
    stage.addEventListener("click", () => {
      // The first touch looks, the second pins.
      if (before === null || before === nodeUnder(panel, shared.cursor).index) togglePin(panel);
    });
    stage.addEventListener("keydown", (event) => {
      const far = event.shiftKey ? 5 : 1;
      const steps = { ArrowUp: [-far, 0], ArrowDown: [far, 0], ArrowLeft: [0, -far], ArrowRight: [0, far] };
      if (steps[event.key]) walk(panel, ...steps[event.key]);
      else if (event.key === "Enter" || event.key === " ") togglePin(panel);
      else return;
      event.preventDefault();
    });
    new ResizeObserver(() => draw()).observe(stage);
  }

  // ---- Drawing

  let waiting = true; // for the panels to be there
  function draw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      const state = panels.filter((panel) => panel.layer).map(drawPanel);
      window.dyngraphState = { view: shared.view, cursor: shared.cursor, pins: shared.pins.length, panels: state };
    });
  }

  function drawPanel(panel) {
    const { layer, model, stage } = panel;
    const { packed } = layer;
    const box = { height: stage.clientHeight, width: stage.clientWidth };
    const [coverY, coverX] = [model.cover[0] * box.height, model.cover[1] * box.width];
    const node = nodeUnder(panel, shared.cursor);
    const mean = Math.max(14, Math.min(32, Math.sqrt(box.height * box.width) * 0.043));
    const full = layer.kinds[panel.kind].scale || 1;
    const state = { model: model.name, layer: packed.name, kind: panel.kind, group: panel.group,
      map: panel.map, node: node.index, row: node.row ?? null, column: node.column ?? null };
    const reading = svg("g"), threads = svg("g"), dots = svg("g"), marks = svg("g");

    const drawNode = (at, pin) => {
      const y = at.y * coverY, x = at.x * coverX;
      const map = packed.maps[panel.map];
      const cell = map ? [coverY / map[0], coverX / map[1]] : [10, 10];
      const [h, w] = cell.map((length) => Math.max(7, length));
      for (const shade of ["node shade", "node"]) {
        marks.append(svg("rect", { class: shade, x: x - w / 2, y: y - h / 2, width: w, height: h, rx: 1 }));
      }
      if (pin === undefined) return;
      const top = y - h / 2 - 10 > 8 ? y - h / 2 - 10 : y + h / 2 + 10;
      marks.append(svg("circle", { class: "pin", cx: x, cy: top, r: 8 }), svg("text", { x, y: top }, String(pin + 1)));
    };

    const drawSamples = (at) => {
      const found = samplesOf(panel, at.index);
      // The small ones in front of the large ones.
      found.sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));
      for (const sample of found) {
        const colour = colourOf(panel, sample);
        const share = Math.min(1, Math.abs(sample.weight) / full);
        const from = [at.y * coverY, at.x * coverX];
        const to = [((sample.y + 0.5) / sample.map[0]) * coverY, ((sample.x + 0.5) / sample.map[1]) * coverX];
        const seen = inside(from, to, [box.height, box.width]);
        const [y, x] = to.map((end, a) => from[a] + seen * (end - from[a]));
        if (shared.read && share > 0) {
          for (const [r, c, part] of corners(sample.y, sample.x, sample.map)) {
            const [h, w] = [coverY / sample.map[0], coverX / sample.map[1]];
            reading.append(svg("rect", { class: "read", x: c * w, y: r * h, width: w, height: h, fill: colour,
              stroke: colour, opacity: part * Math.sqrt(share), "fill-opacity": 0.5, "data-row": r, "data-column": c, "data-part": part }));
          }
        }
        // Hundreds of lines to samples of no weight would hide the others.
        const visible = (found.length > 100 ? 0 : 0.25) + 0.75 * Math.sqrt(share);
        if (visible > 0.1) threads.append(svg("line", { class: "thread", x1: from[1], y1: from[0], x2: x, y2: y,
          stroke: colour, "stroke-opacity": visible }));
        const looks = `dot${sample.weight < 0 ? " hollow" : ""}${seen < 1 ? " outside" : ""}`;
        const dot = svg("circle", { class: looks, cx: x, cy: y,
          r: Math.max(2, mean * Math.sqrt(share)), fill: colour, "data-node": at.index, "data-head": sample.head,
          "data-sample": sample.sample, "data-weight": sample.weight });
        if (sample.weight < 0) dot.style.stroke = colour;
        dot.append(svg("title", {}, `${number(sample.weight)} at ${sample.y.toFixed(2)}, ${sample.x.toFixed(2)}`));
        dots.append(dot);
      }
      return found;
    };

    stage.classList.toggle("dimmed", shared.view !== "samples");
    panel.heat.hidden = shared.view === "samples";
    let scale = null;
    if (shared.view === "samples") {
      const pins = shared.pins.map((pin) => nodeUnder(panel, pin));
      pins.forEach((pin, i) => { drawSamples(pin); drawNode(pin, i); });
      state.pins = pins.map((pin) => pin.index);
      state.dots = pins.some((pin) => pin.index === node.index) ? samplesOf(panel, node.index) : drawSamples(node);
      drawNode(node);
    } else if (shared.view === "listeners") {
      const heat = listeners(panel, shared.cursor.y / model.cover[0], shared.cursor.x / model.cover[1]);
      const most = heat.reduce((a, b) => Math.max(a, b), 0);
      scale = [number(most), `of a node's ${panel.kind}`];
      state.listeners = [...heat];
      if (packed.maps.length) {
        const [h, w] = packed.stored[panel.map];
        const first = layer.first[panel.map];
        drawHeat(panel, heat.subarray(first, first + h * w), [h, w], most,
          [(h * packed.every) / packed.maps[panel.map][0], (w * packed.every) / packed.maps[panel.map][1]]);
      } else {
        panel.heat.hidden = true;
        heat.forEach((value, n) => {
          if (value <= 0) return;
          dots.append(svg("circle", { class: "dot", cx: layer.x[n] * coverX, cy: layer.y[n] * coverY,
            r: Math.max(2, mean * Math.sqrt(value / most)), fill: COLOURS[0], "data-node": n, "data-weight": value }));
        });
      }
      const map = packed.senders[packed.sets[[...panel.sets][0]].level];
      const at = [shared.cursor.y / model.cover[0], shared.cursor.x / model.cover[1]];
      const [y, x] = at.map((f, a) => (Math.floor(f * map[a]) + 0.5) / map[a]);
      drawNode({ y, x });
    } else {
      panel.density ??= density(panel);
      const { heat, map } = panel.density;
      const most = heat.reduce((a, b) => Math.max(a, b), 0);
      scale = [`${number(most)} ×`, "the mean"];
      state.density = [...heat];
      drawHeat(panel, heat, map, most, [1, 1]);
      drawNode(node);
    }
    drawBoxes(page.objects, "label", marks, box);
    drawBoxes(panel.model.objects, "prediction", marks, box);
    panel.drawing.replaceChildren(reading, threads, dots, marks);
    panel.prediction.style.opacity = shared.blend.prediction ?? 0;
    panel.flags.style.opacity = shared.blend.prediction > 0 ? 1 : 0;
    panel.label.style.opacity = shared.blend.label ?? 0;
    drawUnder(panel, scale, full, mean);
    drawInfo(panel, node, state);
    return state;
  }

  /** True objects are dashed. */
  function drawBoxes(objects, layer, marks, box) {
    if (!objects || !(shared.blend[layer] > 0)) return;
    objects.boxes.forEach(([left, top, right, bottom], i) => {
      const rect = svg("rect", { class: `box ${layer}`, x: (left / width) * box.width, y: (top / height) * box.height,
        width: ((right - left) / width) * box.width, height: ((bottom - top) / height) * box.height,
        stroke: classColour(objects.labels[i]) });
      marks.prepend(rect);
    });
  }

  function heatColour(t) {
    const place = t * (HEAT.length - 1);
    const i = Math.min(HEAT.length - 2, Math.floor(place));
    return HEAT[i].map((from, c) => from + (HEAT[i + 1][c] - from) * (place - i));
  }

  /** Of few listeners the small shares are seen too, as the radius of a dot shows them. */
  const tone = (share) => (shared.view === "listeners" ? Math.sqrt(share) : share);

  function drawHeat(panel, heat, map, most, stretch) {
    const canvas = panel.heat;
    [canvas.height, canvas.width] = map;
    canvas.style.height = `${100 * panel.model.cover[0] * stretch[0]}%`;
    canvas.style.width = `${100 * panel.model.cover[1] * stretch[1]}%`;
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(map[1], map[0]);
    heat.forEach((value, i) => {
      const t = most > 0 ? tone(value / most) : 0;
      pixels.data.set([...heatColour(t), t > 0 ? 70 + 150 * t : 0], 4 * i);
    });
    context.putImageData(pixels, 0, 0);
  }

  function drawUnder(panel, scale, full, mean) {
    const parts = [];
    if (scale) {
      const canvas = el("canvas", { width: 60, height: 1, "aria-hidden": "true" });
      const context = canvas.getContext("2d");
      for (let i = 0; i < 60; i++) {
        context.fillStyle = hex(heatColour(tone(i / 59)));
        context.fillRect(i, 0, 1, 1);
      }
      parts.push(el("span", { class: "scale" }, "0", canvas, scale.join(" ")));
    } else {
      for (const share of [1, 0.25, 0.05]) {
        const r = mean * Math.sqrt(share);
        const circle = svg("circle", { cx: r + 1, cy: r + 1, r, fill: "none", stroke: "currentColor" });
        const picture = svg("svg", { width: 2 * r + 2, height: 2 * r + 2, "aria-hidden": "true" }, circle);
        parts.push(el("span", { class: "sizes" }, picture, number(full * share)));
      }
      parts.push(el("span", { class: "sizes" }, `dots: area is ${panel.kind === "filters" || panel.kind === "products" ? "the size of the weight, hollow if negative" : "the weight"}, dashed at the border if outside`));
    }
    panel.under.replaceChildren(...parts);
  }

  function amount(value, most, text) {
    const bar = el("i", {});
    bar.style.width = `${Math.max(0, Math.min(60, (60 * value) / (most || 1)))}px`;
    return el("span", { class: "amount" }, bar, text);
  }

  const card = (title, ...children) => el("section", { class: "card", "aria-label": title }, el("h3", {}, title), ...children);

  function drawInfo(panel, node, state) {
    const { layer, model } = panel;
    const { packed } = layer;
    const pixel = [Math.floor(shared.cursor.y * height), Math.floor(shared.cursor.x * width)];
    const cards = [];
    const title = node.row === undefined ? `Query ${node.index}` : `Node ${node.row}, ${node.column}`;
    const found = samplesOf(panel, node.index).sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));
    const outside = found.filter((s) => s.y < -0.5 || s.x < -0.5 || s.y > s.map[0] - 0.5 || s.x > s.map[1] - 0.5);
    const most = Math.abs(found[0]?.weight ?? 0);
    const several = packed.sets.length > 1 || layer.heads > 1;
    const rows = found.slice(0, MOST_ROWS).map((s) => {
      const from = [packed.sets.length > 1 ? packed.sets[s.set].name : null, layer.heads > 1 ? `head ${s.head + 1}` : null];
      return el("tr", {},
        el("td", { class: "wrap" }, swatch(colourOf(panel, s)), several ? from.filter(Boolean).join(", ") : String(s.sample + 1)),
        el("td", {}, `${s.y.toFixed(1)}, ${s.x.toFixed(1)}`),
        el("td", {}, amount(Math.abs(s.weight), most, number(s.weight))));
    });
    const header = el("tr", {}, el("th", {}, "sample"), el("th", {}, "row, column"), el("th", {}, panel.kind));
    const notes = [];
    if (found.length > MOST_ROWS) notes.push(`and ${found.length - MOST_ROWS} smaller`);
    if (outside.length) {
      const sum = outside.reduce((a, s) => a + Math.abs(s.weight), 0);
      notes.push(`${outside.length} of ${found.length} are outside the map, with ${number(sum)} together`);
    }
    cards.push(card(`${title} · pixel ${pixel.join(", ")}`, el("table", {}, el("thead", {}, header), el("tbody", {}, ...rows)),
      el("p", { class: "soft" }, notes.join("; "))));
    if (model.segmentation || page.label) cards.push(classCard(panel, pixel, state));
    if (model.objects) cards.push(objectCard("Objects", model.objects, panel));
    if (page.objects) cards.push(objectCard("True objects", page.objects, panel));
    cards.push(histogramCard(panel, node, state));
    cards.push(storedCard(panel));
    panel.info.replaceChildren(...cards);
    if (document.activeElement === panel.stage) {
      const strongest = found[0] ? `, the strongest ${number(found[0].weight)} at ${found[0].y.toFixed(1)}, ${found[0].x.toFixed(1)}` : "";
      document.getElementById("live").textContent = `${title}: ${found.length} samples${strongest}`;
    }
  }

  function classCard(panel, pixel, state) {
    const parts = [];
    if (panel.model.segmentation) {
      state.scores = scoresAt(panel, pixel);
      const rows = state.scores.filter(([, score], i) => i === 0 || (i < 5 && score >= 0.005)).map(([c, score]) => el("tr", {},
        el("td", { class: "wrap" }, swatch(classColour(c), true), className(c)),
        el("td", {}, amount(score, 1, score.toFixed(2)))));
      parts.push(el("table", {}, el("tbody", {}, ...rows)));
      state.predicted = panel.classes[pixel[0] * width + pixel[1]];
    }
    if (page.label) {
      const c = shared.label[pixel[0] * width + pixel[1]];
      state.label = c;
      const name = c < page.palette.length ? [swatch(classColour(c), true), className(c)] : ["none"];
      parts.push(el("p", { class: "soft" }, "label: ", ...name));
    }
    return card("Class scores", ...parts);
  }

  function objectCard(title, objects, panel) {
    const buttons = objects.boxes.map((box, i) => {
      const go = () => {
        const query = objects.queries?.[i];
        const { layer, model } = panel;
        if (query !== undefined && !layer.packed.maps.length && query < layer.nodes) {
          moveTo(layer.y[query] * model.cover[0], layer.x[query] * model.cover[1]);
        } else {
          moveTo((box[1] + box[3]) / 2 / height, (box[0] + box[2]) / 2 / width);
        }
      };
      return el("button", { type: "button", onclick: go }, ...objectName(objects, i));
    });
    return card(title, buttons.length ? el("div", { class: "objects" }, ...buttons) : el("p", { class: "soft" }, "none"));
  }

  function histogramCard(panel, node, state) {
    const { layer, kind } = panel;
    layer.histograms ??= { ...layer.packed.histograms };
    const all = (layer.histograms[kind] ??= histogram(layer, kind, null));
    const own = histogram(layer, kind, node.index);
    state.histogram = own;
    const uniform = kind === "attention" ? 1 / layer.packed.samples : kind === "affinities" ? 1 / layer.packed.sets[0].num_samples : null;
    const last = Math.max(BINS.perDecade, ...[...all.keys()].filter((i) => all[i] > 0 || own[i] > 0)) + 1;
    return card("Histogram of weights", bars("all nodes", all, last, uniform), bars("this node", own, last, uniform));
  }

  function bars(name, counts, last, uniform) {
    const [w, h, foot, head] = [260, 74, 12, 11];
    const total = counts.reduce((a, b) => a + b, 0);
    const top = Math.log10(Math.max(...counts, 1) + 1);
    const x = (bin) => (bin / last) * w;
    const picture = svg("svg", { class: "bars", viewBox: `0 0 ${w} ${h}`, role: "img",
      "aria-label": `${name}: ${total} weights, counts on a logarithmic scale` });
    counts.slice(0, last).forEach((count, i) => {
      if (!count) return;
      const tall = (Math.log10(count + 1) / top) * (h - foot - head);
      picture.append(svg("rect", { x: x(i) + 0.5, y: h - foot - tall, width: w / last - 1, height: tall, "data-count": count },
        svg("title", {}, `${count} of ${number(10 ** (BINS.first + i / BINS.perDecade))} and more`)));
    });
    picture.append(svg("line", { class: "axis", x1: 0, x2: w, y1: h - foot, y2: h - foot }));
    for (let bin = 0; bin < last; bin += BINS.perDecade) {
      picture.append(svg("text", { x: x(bin), y: h - 2 }, bin ? power(BINS.first + bin / BINS.perDecade) : "0"));
    }
    if (uniform) {
      const at = x((Math.log10(uniform) - BINS.first) * BINS.perDecade);
      picture.append(svg("line", { class: "uniform", x1: at, x2: at, y1: head, y2: h - foot }, svg("title", {}, "all the same")));
    }
    picture.append(svg("text", { x: 0, y: 9 }, `${name}: ${total.toLocaleString("en")} weights`));
    return picture;
  }

  function storedCard(panel) {
    const { packed, kinds } = panel.layer;
    const lines = [`Positions to 1/${Math.round(1 / packed.pos.step)} node.`];
    const steps = packed.weights[panel.kind]?.type === "int8" ? 127 : 255;
    lines.push(`Weights to ${number(kinds[panel.kind].scale / steps)}, the small ones finer.`);
    if (packed.every > 1) lines.push(`Of this layer's nodes every ${packed.every}${packed.every === 2 ? "nd" : "th"} row and column.`);
    if (packed.share < 1) {
      lines.push(`Of ${packed.samples.toLocaleString("en")} samples of a node the strongest ${panel.layer.count}, `
        + `with ${(100 * packed.share).toFixed(0)} % of the weight.`);
    }
    const out = Object.entries(panel.model.leftOut).map(([name, reason]) => `${name} is left out: ${reason}.`);
    return card("What this page holds", el("p", { class: "soft wrap" }, [...lines, ...out].join(" ")));
  }

  // ---- The tools of the page

  function drawTools() {
    const views = choice("view", VIEWS, shared.view, (view) => { shared.view = view; drawTools(); draw(); });
    const parts = [views];
    const slider = (name, key) => el("label", { class: "tool" }, name, el("input", {
      type: "range", min: 0, max: 1, step: 0.05, value: shared.blend[key] ?? 0,
      oninput: (event) => { shared.blend[key] = Number(event.target.value); draw(); },
    }));
    if (page.models.some((model) => model.segmentation || model.objects)) parts.push(slider("prediction", "prediction"));
    if (page.label || page.objects) parts.push(slider("label", "label"));
    const box = { type: "checkbox", onchange: (event) => { shared.read = event.target.checked; draw(); } };
    if (shared.read) box.checked = "";
    parts.push(el("label", { class: "tool", title: "The nodes between which samples are interpolated" }, el("input", box), "nodes read"));
    document.getElementById("tools").replaceChildren(...parts);
  }

  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input") || event.ctrlKey || event.metaKey || event.altKey) return;
    const view = VIEWS[Number(event.key) - 1];
    if (view) { shared.view = view[0]; drawTools(); draw(); }
    if (event.key === "Escape") { shared.pins = []; draw(); }
  });

  const main = document.getElementById("panels");
  if (page.models.some((model) => model.objects)) shared.blend.prediction = 0.5;
  drawTools();
  for (const [number, model] of page.models.entries()) panels.push(await makePanel(model, number));
  main.classList.toggle("only", panels.length === 1);
  main.replaceChildren(...panels.map((panel) => panel.root));
  waiting = false;
  draw();
})();
