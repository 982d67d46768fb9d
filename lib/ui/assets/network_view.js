// Draws the network to scale and, over a digit, the receptive field of the chosen layer at any position of its output.

const SVG = "http://www.w3.org/2000/svg"
const SIDE = 2.5 // screen pixels for each pixel of a feature map
const SLANT = [0.42, 0.26] // offset of the far edge of a map, to the right and up, as a fraction of its side
const DEEPEST = 64 // screen pixels of the layer with the most channels
const COLUMN = 64 // minimum width of a layer, for its labels
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
const SVGS = new Set(["svg", "g", "rect", "polygon", "text", "image", "pattern", "path", "defs"])
const points = (...pairs) => pairs.map((pair) => pair.join(",")).join(" ")
const has = (set, position) => (set >> position) & 1
const count = (set) => {
  let members = 0
  for (let bits = set; bits; bits &= bits - 1) members++
  return members
}

const slabSize = (layer) => Math.max(Math.min(layer.shape[1], MAX_DRAWN_SIDE) * SIDE, 3)

// The slab of a layer: its right face is the feature map, its depth the number of channels.
function slab(layer, depth, x, middle) {
  const size = slabSize(layer)
  const [across, up] = SLANT.map((part) => part * size)
  const top = middle - size / 2 + up / 2
  const bottom = top + size
  return [
    ["front", [x, top], [x + depth, top], [x + depth, bottom], [x, bottom]],
    ["top", [x, top], [x + across, top - up], [x + depth + across, top - up], [x + depth, top]],
    ["map", [x + depth, top], [x + depth + across, top - up], [x + depth + across, bottom - up], [x + depth, bottom]],
  ].map(([face, ...corners]) => element("polygon", { class: face, points: points(...corners) }))
}

function drawNetwork(host, layers, chosen, choose, preview) {
  const widest = Math.max(...layers.map((layer) => layer.shape[0]))
  const perChannel = Math.min(2, DEEPEST / widest)
  const tallest = Math.max(IMAGE * SIDE, ...layers.map(slabSize))
  const height = tallest * (1 + SLANT[1]) + 12
  const middle = height / 2
  let x = 4
  const groups = layers.map((layer, index) => {
    const depth = Math.max(layer.shape[0] * perChannel, 2)
    const size = slabSize(layer)
    const drawn = depth + SLANT[0] * size
    const width = Math.max(drawn + 14, COLUMN)
    const group = element("g", {
      class: `layer ${layer.kind}${index === chosen ? " chosen" : ""}`,
      role: "button",
      tabindex: 0,
      "aria-pressed": index === chosen,
      "aria-label": `${layer.label}, output ${layer.shape.join(" × ")}`,
      "data-layer": index,
    })
    group.append(
      element("rect", { class: "hit", x, y: 0, width, height: height + 40, rx: 6 }),
      ...slab(layer, depth, x + (width - drawn) / 2, middle),
    )
    const word = (text, row, kind) => {
      const node = element("text", { class: kind, x: x + width / 2, y: height + 14 + 16 * row })
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
    x += width
    return group
  })
  const total = x + 4
  const svg = element("svg", { viewBox: `0 0 ${total} ${height + 44}`, role: "group", "aria-label": "The network" })
  // Drawn smaller if there is no room, as long as the labels can be read; below that it scrolls.
  svg.style.width = "100%"
  svg.style.minWidth = `${Math.round(total * 0.8)}px`
  svg.style.maxWidth = `${Math.round(total * 1.25)}px`
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
  const [rows, columns] = position.map((p) => layer.input_masks[p])
  const square = (row, column, kind, width = 1, height = width) =>
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
  const [top, left] = position.map((p) => layer.center + p * layer.jump - (layer.receptive_field - 1) / 2)
  square(top, left, "extent", layer.receptive_field)
  const seen = count(rows) * count(columns)
  const field = layer.receptive_field ** 2
  const cut = field - overlap(top, layer) * overlap(left, layer)
  const gaps = field - cut - seen
  const text = [
    `Its receptive field is ${layer.receptive_field} × ${layer.receptive_field} = ${field.toLocaleString("en")} pixels.`,
    cut
      ? `${cut.toLocaleString("en")} of them are outside the image, where padding puts zeros; ${seen} affect the output.`
      : "All of it is inside the image.",
    gaps > 0 ? `${gaps} pixels inside it have no effect: stride or dilation skips them, or padding of an earlier layer cuts them off.` : "",
  ].join(" ")
  svg.setAttribute("aria-label", text)
  host.replaceChildren(svg)
  return text
}

function overlap(start, layer) {
  return Math.max(0, Math.min(start + layer.receptive_field, IMAGE) - Math.max(start, 0))
}

// Draws the layer's output as a grid of positions; the arrow keys, a click or a drag choose one.
function drawPositions(host, layer, position, move) {
  const side = layer.shape[1]
  const cell = 168 / side
  const svg = element("svg", {
    viewBox: "-1 -1 170 170", class: "positions", role: "application", tabindex: 0,
    "aria-label": `Position in the output of ${layer.label}: row ${position[0] + 1}, column ${position[1] + 1} of ${side}. Arrow keys move it.`,
  })
  for (let row = 0; row < side; row++) {
    for (let column = 0; column < side; column++) {
      const unused = !(layer.used[row] === "1" && layer.used[column] === "1")
      const here = row === position[0] && column === position[1]
      svg.append(
        element("rect", {
          class: `position${unused ? " unused" : ""}${here ? " here" : ""}`,
          x: column * cell, y: row * cell, width: cell, height: cell,
        }),
      )
    }
  }
  const pick = (event) => {
    const box = svg.getBoundingClientRect()
    const place = (offset, length) => Math.min(side - 1, Math.max(0, Math.floor((offset / length) * side)))
    move([place(event.clientY - box.top, box.height), place(event.clientX - box.left, box.width)])
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
    move(position.map((p, axis) => Math.min(side - 1, Math.max(0, p + step[axis]))))
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
    Math.max(2, ...layers.map((layer) => Math.ceil((layer.receptive_field - 1) / 2 - layer.center))),
  )

  const show = (index) => {
    const layer = layers[index]
    const side = layer.shape[1]
    const position = state.at.map((part) => Math.min(side - 1, Math.floor(part * side)))
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
    const drawable = layer.input_masks.length > 0
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
      state.at = next.map((p) => (p + 0.5) / side)
      show(index)
    })
    const positionText = `Output at row ${position[0] + 1}, column ${position[1] + 1} of ${side} × ${side}.`
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
