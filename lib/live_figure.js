// Draws a Plotly figure with Plotly.react, so that zoom, hover and hidden traces outlive an update of the data.

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

// The figure comes in the colours of the light theme; those of the page, light or dark, are known here.
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
  const own = (c) => palette[standard.indexOf(c)] ?? c
  const painted = (trace, name) =>
    trace[name] && {
      [name]: {
        ...trace[name],
        color: Array.isArray(trace[name].color) ? trace[name].color.map(own) : own(trace[name].color),
      },
    }
  const traces = figure.data.map((trace) => ({
    ...trace, ...painted(trace, "line"), ...painted(trace, "marker"), ...painted(trace, "textfont"),
  }))
  return { traces, layout }
}

export default function ({ data, parentElement }) {
  const host = parentElement.querySelector(".live-figure")
  if (!host) return
  host.setAttribute("aria-label", data.alt)
  host.style.height = `${data.height}px`
  const { traces, layout } = themed(
    JSON.parse(data.figure), data.palette, getComputedStyle(host), data.height, data.revision,
  )
  const config = {
    responsive: true,
    displaylogo: false,
    displayModeBar: data.tools ? "hover" : false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "sendChartToCloud"],
  }
  // The rest of the page is painted first; of figures that come in quick succession only the last is drawn.
  host.receptive = () => window.Plotly.react(host, traces, layout, config)
  const draw = host.receptive
  loadPlotly(data.plotly)
    .then(() => setTimeout(() => host.isConnected && host.receptive === draw && draw(), PAUSE))
    .catch((error) => (host.textContent = error.message))
  return () => window.Plotly?.purge(host)
}
