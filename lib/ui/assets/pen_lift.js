// Sends the drawing as soon as the pen is lifted, by pressing the canvas's own button. The canvas itself waits for 200
// milliseconds, in case another stroke follows. Without the button it still does that.

const SEND = "[aria-label='Update the app with this drawing']"

export default function () {
  let canvas = null
  const press = (event) => {
    const path = event.composedPath()
    // A press on the toolbar draws nothing.
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
