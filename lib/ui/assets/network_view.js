// Draws the network to scale and, over a digit, the receptive field of the chosen layer at any position of its output.

const SVG = "http://www.w3.org/2000/svg"
const SIDE = 2.5 // screen pixels for each pixel of a feature map
const SLANT = [0.42, 0.26] // offset of the far edge of a map, to the right and up, as a fraction of its side
const DEEPEST = 64 // screen pixels of the layer with the most channels
const COLUMN = 64 // minimum width of a layer, for its labels
const THIN = 3 // screen pixels of a layer that only changes single values
const LETTER = 8 // width of a token's letter
const JOIN = 11 // radius of a join's circle
const LABELS = 40 // height of a layer's labels
const SKIP = 26 // height of a lane in which only a line runs
const GAP = 16 // between the columns of a network with branches, for its lines
const IMAGE = 28
const MARGIN = 12 // maximum number of image pixels shown around the image
const CELL = 6 // screen pixels for each pixel of the digit
const MAX_DRAWN_SIDE = 96 // as in network_view.py

const element = (name, attributes = {}, ...children) => {
  const node = SVGS.has(name) ? document.createElementNS(SVG, name) : document.createElement(name)
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value)
  node.append(...children)
  return node
}
const SVGS = new Set(["svg", "g", "rect", "polygon", "text", "image", "pattern", "path", "defs", "circle"])
const points = (...pairs) => pairs.map((pair) => pair.join(",")).join(" ")
const has = (set, position) => (set >> position) & 1
const count = (set) => {
  let members = 0
  for (let bits = set; bits; bits &= bits - 1) members++
  return members
}

// The two axes of a layer's output, vertical first.
const axesOf = (layer) => [layer.vertical, layer.horizontal ?? layer.vertical]

// Screen pixels of a map's height and width.
const slabSize = (layer) => layer.shape.slice(1).map((side) => Math.max(Math.min(side, MAX_DRAWN_SIDE) * SIDE, 3))

// Width and height of a layer's drawing, and the part of the width that is the depth of its slab.
function drawnSize(layer, perChannel) {
  if (layer.kind === "join") return { width: 2 * JOIN, height: 2 * JOIN, depth: 0 }
  const isThin = layer.kind === "activation" || layer.kind === "norm"
  const depth = isThin ? THIN : Math.max(layer.shape[0] * perChannel, 2)
  const [height, width] = slabSize(layer)
  return { width: depth + SLANT[0] * width, height: height + SLANT[1] * width, depth }
}

// The slab of a layer: its right face is the feature map, its depth the number of channels.
function slab(layer, depth, x, middle) {
  const [height, width] = slabSize(layer)
  const [across, up] = SLANT.map((part) => part * width)
  const top = middle - height / 2 + up / 2
  const bottom = top + height
  return [
    ["front", [x, top], [x + depth, top], [x + depth, bottom], [x, bottom]],
    ["top", [x, top], [x + across, top - up], [x + depth + across, top - up], [x + depth, top]],
    ["map", [x + depth, top], [x + depth + across, top - up], [x + depth + across, bottom - up], [x + depth, bottom]],
  ].map(([face, ...corners]) => element("polygon", { class: face, points: points(...corners) }))
}

// The circle of a join: branches are added, or put beside each other.
function joinSign(layer, x, middle) {
  const sign = element("text", { class: "sign", x, y: middle + 6 })
  sign.textContent = layer.token === "add" ? "+" : "‖"
  return [element("circle", { cx: x, cy: middle, r: JOIN }), sign]
}

// The lines from the inputs of the layers, each along its lane; `columns` have their left edges and widths.
function drawLinks(layers, columns, middles) {
  return layers.flatMap((layer, index) =>
    layer.links.map(([source, lane]) => {
      const from = layers[source]
      const [start, stop] = [from, layer].map(({ column }) => columns[column].x + columns[column].width / 2)
      const out = columns[from.column].x + columns[from.column].width + GAP / 2
      const into = columns[layer.column].x - GAP / 2
      const path =
        `M${start} ${middles[from.lane]}H${out}V${middles[lane]}H${into}V${middles[layer.lane]}H${stop}`
      return element("path", { class: "link", d: path, "data-from": source, "data-to": index })
    }),
  )
}

function drawNetwork(host, layers, chosen, choose, preview) {
  const widest = Math.max(...layers.map((layer) => layer.shape[0]))
  const perChannel = Math.min(2, DEEPEST / widest)
  const sizes = layers.map((layer) => drawnSize(layer, perChannel))
  const gap = layers.some((layer) => layer.kind === "join") ? GAP : 0
  const columns = []
  layers.forEach((layer, index) => {
    const labels = Math.max(LETTER * layer.token.length, 0.85 * LETTER * layer.shape.join("×").length) + 8
    const column = (columns[layer.column] ??= { width: COLUMN })
    column.width = Math.max(column.width, sizes[index].width + 14, labels)
  })
  let x = 4
  for (const column of columns) {
    column.x = x
    x += column.width + gap
  }
  // Lanes without layers are low; the first one has room for the image.
  const heights = []
  layers.forEach((layer, index) => {
    heights[layer.lane] = Math.max(heights[layer.lane] ?? 0, sizes[index].height + 12)
    for (const [, lane] of layer.links) heights[lane] ??= 0
  })
  const lanes = []
  let y = 0
  for (const height of heights) {
    lanes.push({ y, height: height ? height + LABELS : SKIP, middle: y + (height || SKIP) / 2 })
    y += lanes.at(-1).height
  }
  const groups = layers.map((layer, index) => {
    const column = columns[layer.column]
    const lane = lanes[layer.lane]
    const size = sizes[index]
    const center = column.x + column.width / 2
    const group = element("g", {
      class: `layer ${layer.kind}${index === chosen ? " chosen" : ""}`,
      role: "button",
      tabindex: 0,
      "aria-pressed": index === chosen,
      "aria-label": `${layer.label}, output ${layer.shape.join(" × ")}`,
      "data-layer": index,
    })
    group.append(
      element("rect", { class: "hit", x: column.x, y: lane.y, width: column.width, height: lane.height, rx: 6 }),
      ...(layer.kind === "join"
        ? joinSign(layer, center, lane.middle)
        : slab(layer, size.depth, center - size.width / 2, lane.middle)),
    )
    const word = (text, row, kind) => {
      const node = element("text", { class: kind, x: center, y: lane.y + lane.height - LABELS + 14 + 16 * row })
      node.textContent = text
      group.append(node)
    }
    word(layer.token, 0, "token")
    word(layer.shape.join("×"), 1, "shape")
    group.addEventListener("click", () => choose(index))
    group.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return
      event.preventDefault()
      choose(index)
    })
    group.addEventListener("pointerenter", () => preview(index))
    group.addEventListener("pointerleave", () => preview(null))
    return group
  })
  const total = x - gap + 4
  const svg = element("svg", { viewBox: `0 0 ${total} ${y + 4}`, role: "group", "aria-label": "The network" })
  // Drawn smaller if there is no room, as long as the labels can be read; below that it scrolls.
  svg.style.width = "100%"
  svg.style.minWidth = `${Math.round(total * 0.8)}px`
  svg.style.maxWidth = `${Math.round(total * 1.25)}px`
  // In a row of layers the order is plain without lines.
  if (gap) svg.append(...drawLinks(layers, columns, lanes.map((lane) => lane.middle)))
  svg.append(...groups)
  host.replaceChildren(svg)
}

function thumbnail(pixels) {
  const canvas = element("canvas", { width: IMAGE, height: IMAGE })
  const context = canvas.getContext("2d")
  const image = context.createImageData(IMAGE, IMAGE)
  pixels.forEach((value, i) => image.data.set([value, value, value, 255], 4 * i))
  context.putImageData(image, 0, 0)
  return canvas
}

function decode(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))
}

// Draws the receptive field over the digit, with what padding cuts off and the pixels that have no effect.
function drawField(host, layer, position, pixels, margin) {
  const whole = (IMAGE + 2 * margin) * CELL
  const svg = element("svg", { viewBox: `0 0 ${whole} ${whole}`, class: "digit", role: "img" })
  const at = (pixel) => (pixel + margin) * CELL
  const hatch = element("pattern", { id: "padding", width: 6, height: 6, patternUnits: "userSpaceOnUse" })
  hatch.append(element("path", { d: "M0 6L6 0", class: "hatch" }))
  svg.append(
    element("defs", {}, hatch),
    element("rect", { class: "outside", x: 0, y: 0, width: whole, height: whole }),
    element("rect", { fill: "url(#padding)", x: 0, y: 0, width: whole, height: whole }),
    element("image", {
      href: thumbnail(pixels).toDataURL(), x: at(0), y: at(0), width: IMAGE * CELL, height: IMAGE * CELL,
    }),
  )
  const axes = axesOf(layer)
  const [rows, columns] = position.map((p, axis) => axes[axis].input_masks[p])
  const square = (row, column, kind, width, height) =>
    svg.append(
      element("rect", { class: kind, x: at(column), y: at(row), width: width * CELL, height: height * CELL }),
    )
  for (let row = 0; row < IMAGE; row++) {
    // One rectangle for each row's stretch of pixels that have no effect.
    for (let column = 0, from = 0; column <= IMAGE; column++) {
      const seen = column < IMAGE && has(rows, row) && has(columns, column)
      if (column < IMAGE && !seen) continue
      if (column > from) square(row, from, "unseen", column - from, 1)
      from = column + 1
    }
  }
  const [top, left] = axes.map(
    (axis, i) => axis.center + position[i] * axis.jump - (axis.receptive_field - 1) / 2,
  )
  const [fieldHeight, fieldWidth] = axes.map((axis) => axis.receptive_field)
  square(top, left, "extent", fieldWidth, fieldHeight)
  const seen = count(rows) * count(columns)
  const field = fieldHeight * fieldWidth
  const cut = field - overlap(top, fieldHeight) * overlap(left, fieldWidth)
  const gaps = field - cut - seen
  const text = [
    `Its receptive field is ${fieldHeight} × ${fieldWidth} = ${field.toLocaleString("en")} pixels.`,
    cut
      ? `${cut.toLocaleString("en")} of them are outside the image, where padding puts zeros; ${seen} affect the output.`
      : "All of it is inside the image.",
    gaps > 0 ? `${gaps} pixels inside it have no effect: stride or dilation skips them, or padding of an earlier layer cuts them off.` : "",
  ].join(" ")
  svg.setAttribute("aria-label", text)
  host.replaceChildren(svg)
  return text
}

function overlap(start, length) {
  return Math.max(0, Math.min(start + length, IMAGE) - Math.max(start, 0))
}

// Draws the layer's output as a grid of positions; the arrow keys, a click or a drag choose one.
function drawPositions(host, layer, position, move) {
  const sides = layer.shape.slice(1)
  const [height, width] = sides
  const [vertical, horizontal] = axesOf(layer)
  const cell = 168 / Math.max(height, width)
  const svg = element("svg", {
    viewBox: `-1 -1 ${width * cell + 2} ${height * cell + 2}`, class: "positions", role: "application", tabindex: 0,
    "aria-label": `Position in the output of ${layer.label}: row ${position[0] + 1}, column ${position[1] + 1} of ${height === width ? height : `${height} × ${width}`}. Arrow keys move it.`,
  })
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const unused = !(vertical.used[row] === "1" && horizontal.used[column] === "1")
      const here = row === position[0] && column === position[1]
      svg.append(
        element("rect", {
          class: `position${unused ? " unused" : ""}${here ? " here" : ""}`,
          x: column * cell, y: row * cell, width: cell, height: cell,
        }),
      )
    }
  }
  svg.style.width = `${width * cell}px`
  const pick = (event) => {
    const box = svg.getBoundingClientRect()
    const place = (offset, length, side) => Math.min(side - 1, Math.max(0, Math.floor((offset / length) * side)))
    move([place(event.clientY - box.top, box.height, height), place(event.clientX - box.left, box.width, width)])
  }
  svg.addEventListener("pointerdown", (event) => {
    pick(event)
    // The grid under the pointer was replaced: the arrow keys go to the new one.
    host.firstElementChild.focus()
  })
  host.onmousedown = (event) => event.preventDefault()
  svg.addEventListener("pointermove", (event) => event.buttons && pick(event))
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key]
    if (!step) return
    event.preventDefault()
    move(position.map((p, axis) => Math.min(sides[axis] - 1, Math.max(0, p + step[axis]))))
  })
  const focused = host.contains(host.getRootNode().activeElement)
  host.replaceChildren(svg)
  if (focused) svg.focus()
}

export default function ({ data, parentElement, setStateValue }) {
  const part = (name) => parentElement.querySelector(`.${name}`)
  const root = part("network-view")
  if (!root) return
  const { layers } = data
  // The chosen position, as a fraction of the map's side, is kept when the network changes.
  const state = (root.receptive ??= { at: [0.5, 0.5], digit: 2 })
  state.chosen = Math.min(data.layer, layers.length - 1)
  const digits = data.digits.map(decode)
  const margin = Math.min(
    MARGIN,
    Math.max(
      2,
      ...layers.flatMap(axesOf).map((axis) => Math.ceil((axis.receptive_field - 1) / 2 - axis.center)),
    ),
  )

  const show = (index) => {
    const layer = layers[index]
    const sides = layer.shape.slice(1)
    const position = state.at.map((part, axis) => Math.min(sides[axis] - 1, Math.floor(part * sides[axis])))
    part("name").textContent = layer.label
    const formulas = data.guessing ? [] : layer.formulas
    part("formulas").replaceChildren(
      ...formulas.flatMap(([name, formula]) => {
        const [term, description] = [element("dt"), element("dd")]
        term.textContent = name
        description.textContent = formula
        return [term, description]
      }),
    )
    const drawable = layer.vertical.input_masks.length > 0
    part("explored").hidden = data.guessing || !drawable
    if (data.guessing) {
      part("summary").textContent = "Receptive field and formulas are shown when the class has guessed."
      return
    }
    if (!drawable) {
      part("summary").textContent = layer.note
      return
    }
    const fieldText = drawField(part("field"), layer, position, digits[state.digit], margin)
    drawPositions(part("grid"), layer, position, (next) => {
      state.at = next.map((p, axis) => (p + 0.5) / sides[axis])
      show(index)
    })
    const positionText = `Output at row ${position[0] + 1}, column ${position[1] + 1} of ${sides.join(" × ")}.`
    part("summary").textContent = [positionText, fieldText, layer.note].filter(Boolean).join(" ")
  }
  const choose = (index) => {
    setStateValue("layer", index)
    state.chosen = index
    render()
  }
  const preview = (index) => show(index ?? state.chosen)
  const render = () => {
    const strip = part("strip")
    const focused = strip.getRootNode().activeElement?.closest?.("[data-layer]")
    drawNetwork(strip, layers, state.chosen, choose, preview)
    if (focused) strip.querySelector(`[data-layer="${state.chosen}"]`)?.focus()
    show(state.chosen)
  }
  part("digits").replaceChildren(
    ...digits.map((pixels, digit) => {
      const button = element("button", { type: "button", "aria-label": `Digit ${digit}` }, thumbnail(pixels))
      const mark = () => button.setAttribute("aria-pressed", digit === state.digit)
      mark()
      button.addEventListener("click", () => {
        state.digit = digit
        for (const [i, other] of [...part("digits").children].entries()) other.setAttribute("aria-pressed", i === digit)
        show(state.chosen)
      })
      return button
    }),
  )
  // The table is painted first; of several networks that arrive meanwhile only the last is drawn.
  root.receptiveDraw = render
  requestAnimationFrame(() => setTimeout(() => root.receptiveDraw === render && render()))
}
