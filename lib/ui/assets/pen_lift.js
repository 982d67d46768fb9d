// The canvas waits for 200 milliseconds after a stroke, in case another follows, before it sends the drawing. Here its
// own button that sends at once is pressed when the pen is lifted. Were the button gone, the canvas would send as ever.

const SEND = "[aria-label='Update the app with this drawing']"

export default function () {
  let canvas = null
  const press = (event) => {
    const path = event.composedPath()
    // Its toolbar is no place to draw on.
    canvas = path.some((node) => node.classList?.contains("dc-container"))
      ? path.find((node) => node.classList?.contains("dc-root"))
      : null
  }
  const lift = () => {
    const drawn = canvas
    canvas = null
    // The canvas must have finished the stroke first.
    if (drawn) setTimeout(() => drawn.querySelector(SEND)?.click())
  }
  const heard = [["mousedown", press], ["touchstart", press], ["mouseup", lift], ["touchend", lift]]
  for (const [name, listener] of heard) addEventListener(name, listener, { capture: true, passive: true })
  return () => heard.forEach(([name, listener]) => removeEventListener(name, listener, { capture: true }))
}
