// Draws a Plotly figure with Plotly.react, which keeps zoom, hover and hidden traces when the data change.

const PAUSE = 250 // milliseconds

const color = (style, name) => style.getPropertyValue(name).trim()

function loadPlotly(url) {
  if (window.Plotly) return Promise.resolve(window.Plotly)
  window.receptivePlotly ??= new Promise((resolve, reject) => {
    const script = document.createElement("script")
    script.src = url
    script.onload = () => resolve(window.Plotly)
    script.onerror = () => reject(new Error("The charts could not be loaded from the server. Reload the page."))
    document.head.append(script)
  })
  return window.receptivePlotly
}

// Resolves once a part of the host is on the screen.
function inView(host) {
  return new Promise((resolve) => {
    host.unseen = new IntersectionObserver((entries, observer) => {
      if (!entries.some((entry) => entry.isIntersecting)) return
      observer.disconnect()
      resolve()
    })
    host.unseen.observe(host)
  })
}

// Replaces the colors of the light theme, in which a figure arrives, by those of the page.
function themed(figure, standard, style, height, revision) {
  const text = color(style, "--st-text-color")
  const grid = color(style, "--st-border-color")
  const palette = color(style, "--st-chart-categorical-colors").split(",")
  const layout = {
    ...figure.layout,
    height,
    autosize: true,
    uirevision: revision,
    colorway: palette,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: color(style, "--st-font"), color: text, size: 14 },
    hoverlabel: { bgcolor: color(style, "--st-secondary-background-color"), bordercolor: grid, font: { color: text } },
  }
  for (const name of Object.keys(layout)) {
    if (/^[xy]axis\d*$/.test(name)) {
      layout[name] = { gridcolor: grid, linecolor: grid, zerolinecolor: grid, ...layout[name] }
    }
  }
  const surface = color(style, "--st-secondary-background-color")
  const own = (c) => (c === standard.surface ? surface : (palette[standard.palette.indexOf(c)] ?? c))
  const painted = (trace, name) =>
    trace[name] && {
      [name]: {
        ...trace[name],
        color: Array.isArray(trace[name].color) ? trace[name].color.map(own) : own(trace[name].color),
      },
    }
  const scaled = (trace) =>
    trace.colorscale && { colorscale: trace.colorscale.map(([place, c]) => [place, own(c)]) }
  const traces = figure.data.map((trace) => ({
    ...trace, ...painted(trace, "line"), ...painted(trace, "marker"), ...painted(trace, "textfont"), ...scaled(trace),
  }))
  layout.shapes = layout.shapes?.map((shape) => ({ ...shape, ...painted(shape, "line") }))
  return { traces, layout }
}

export default function ({ data, parentElement, setTriggerValue }) {
  const host = parentElement.querySelector(".live-figure")
  if (!host) return
  host.setAttribute("aria-label", data.alt)
  host.style.height = `${data.height}px`
  const config = {
    responsive: true,
    displaylogo: false,
    displayModeBar: data.tools ? "hover" : false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "sendChartToCloud"],
  }
  // The rest of the page is painted first, unless the reader waits for this figure; of figures in quick succession only
  // the last is drawn.
  host.receptive = () => {
    const { traces, layout } = themed(
      JSON.parse(data.figure), data.standard, getComputedStyle(host), data.height, data.revision,
    )
    window.Plotly.react(host, traces, layout, config)
    host.removeAllListeners("plotly_click")
    if (data.picks) host.on("plotly_click", ({ points: [{ x, y }] }) => setTriggerValue("picked", [String(x), String(y)]))
  }
  const draw = host.receptive
  host.unseen?.disconnect()
  loadPlotly(data.plotly)
    .then(() => data.lazy && inView(host))
    .then(() => setTimeout(() => host.isConnected && host.receptive === draw && draw(), data.atOnce ? 0 : PAUSE))
    .catch((error) => (host.textContent = error.message))
  return () => {
    host.unseen?.disconnect()
    window.Plotly?.purge(host)
  }
}
