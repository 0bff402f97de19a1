// Search runs in a worker, which browsers refuse to start from a file. There, a hidden frame does its work.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      const inside = frame.contentWindow
      const load = (script) => new Promise((resolve, reject) => {
        const element = frame.contentDocument.createElement("script")
        Object.assign(element, { src: script, onload: resolve, onerror: reject })
        frame.contentDocument.body.append(element)
      })
      inside.importScripts = (...scripts) => Promise.all(scripts.map(load))
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
      this.postMessage = (data) => started.then(() => inside.dispatchEvent(new MessageEvent("message", { data })))
      this.terminate = () => frame.remove()
      const started = load(url)
    }
  }
}
