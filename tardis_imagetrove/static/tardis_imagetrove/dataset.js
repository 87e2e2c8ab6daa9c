// The series on a dataset's page: choosing one, finding one among many, and scrolling through its volume.

const AXES = ['sagittal', 'coronal', 'axial']; // by the index of NiiVue's axes: right, front, head
const PLANES = ['Sagittal', 'Coronal', 'Axial'];
const PLANES_WITHOUT_PLACE = ['Columns', 'Rows', 'Slices'];
const SLICES_ONLY = 0; // by NiiVue's kinds of view
const THREE_PLANES = 3;
const root = document.getElementById('imagetrove');
let viewer = null;

// Finding a series

function prepareList() {
  const list = root.querySelector('.imagetrove-list');
  if (!list) return;
  const lines = [...list.querySelectorAll('.imagetrove-lines li')];
  const filter = list.querySelector('.imagetrove-filter');
  if (filter) {
    const texts = lines.map((line) => line.textContent.toLowerCase());
    const said = filter.querySelector('[role="status"]');
    filter.hidden = false;
    filter.querySelector('input').addEventListener('input', (event) => {
      const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      lines.forEach((line, index) => {
        line.hidden = !words.every((word) => texts[index].includes(word));
        shown += line.hidden ? 0 : 1;
      });
      said.textContent = words.length ? `${shown} of ${lines.length} series` : '';
    });
  }
  list.addEventListener('click', (event) => {
    const link = event.target.closest('a[data-series]');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    show(link.href, true);
  });
  window.addEventListener('popstate', () => show(window.location.href, false));
  keepInSight(list.querySelector('[aria-current]'));
}

function keepInSight(link) {
  const list = link?.closest('.imagetrove-lines');
  if (!list) return;
  const [line, box] = [link.getBoundingClientRect(), list.getBoundingClientRect()];
  if (line.top < box.top || line.bottom > box.bottom) list.scrollTop += line.top - box.top - box.height / 3;
}

let asked = 0;

// Puts another series in the place of this one, from the same page as it is without scripts.
async function show(address, asNewPage) {
  const mine = ++asked;
  const section = document.getElementById('imagetrove-series');
  section.setAttribute('aria-busy', 'true');
  let page = null;
  try {
    const answer = await fetch(address, { credentials: 'same-origin' });
    if (answer.ok) page = new DOMParser().parseFromString(await answer.text(), 'text/html');
  } catch {
    // Going there below lets the browser say what is wrong.
  }
  if (mine !== asked) return;
  const fresh = page?.getElementById('imagetrove-series');
  if (!fresh) {
    window.location.assign(address);
    return;
  }
  viewer?.close();
  section.replaceWith(document.adoptNode(fresh));
  const [pane, freshPane] = [document, page].map((where) => where.getElementById('metadata-pane'));
  if (pane && freshPane) pane.replaceChildren(...[...freshPane.childNodes].map((node) => document.adoptNode(node)));
  const current = page.querySelector('#imagetrove [aria-current]')?.dataset.series;
  for (const link of root.querySelectorAll('a[data-series]')) {
    if (link.dataset.series === current) {
      link.setAttribute('aria-current', 'true');
      keepInSight(link);
    } else {
      link.removeAttribute('aria-current');
    }
  }
  if (asNewPage) window.history.pushState(null, '', address);
  prepareViewer();
  prepareCitation();
  fresh.focus({ preventScroll: true });
  fresh.scrollIntoView({ block: 'nearest' });
}

// The viewer

function canDraw() {
  try {
    return Boolean(document.createElement('canvas').getContext('webgl2'));
  } catch {
    return false;
  }
}

function prepareCitation() {
  const button = root.querySelector('.imagetrove-copy');
  if (!button || !navigator.clipboard) return;
  button.hidden = false;
  button.addEventListener('click', async () => {
    await navigator.clipboard.writeText(document.getElementById('imagetrove-citation').textContent);
    button.textContent = 'Copied';
  });
}

function prepareViewer() {
  viewer = null;
  const figure = root.querySelector('.imagetrove-viewer');
  if (!figure?.dataset.niivue) return;
  viewer = new Viewer(figure);
}

let library = null;

function loadLibrary(address) {
  library ??= new Promise((resolve, reject) => {
    const script = document.createElement('script');
    script.src = address;
    script.onload = () => (window.niivue?.Niivue ? resolve(window.niivue) : reject(new Error('the viewer’s program is incomplete')));
    script.onerror = () => reject(new Error('the viewer’s program could not be loaded'));
    document.head.append(script);
  });
  library.catch(() => { library = null; });
  return library;
}

class Viewer {
  constructor(figure) {
    this.figure = figure;
    this.find = (selector) => figure.querySelector(selector);
    this.said = this.find('.imagetrove-said');
    this.button = this.find('.imagetrove-load');
    this.cancel = this.find('.imagetrove-cancel');
    this.chooser = this.find('#imagetrove-volume');
    if (!canDraw()) {
      this.say(this.find('.imagetrove-picture')
        ? 'This browser does not offer WebGL 2, which the viewer needs, so this is the picture.'
        : 'This browser does not offer WebGL 2, which the viewer needs. The volume can be downloaded below.');
      return;
    }
    this.label();
    this.button.hidden = false;
    this.button.addEventListener('click', () => this.load());
    this.cancel.addEventListener('click', () => this.loading?.abort());
    this.chooser.addEventListener('change', () => {
      this.label();
      if (this.nv) this.load();
    });
  }

  get volume() {
    const chosen = this.chooser.selectedOptions?.[0] ?? this.chooser;
    return { url: chosen.value, doubtful: 'doubtful' in chosen.dataset, ...chosen.dataset };
  }

  label() {
    this.button.textContent = `Scroll through the volume (${this.volume.size})`;
  }

  say(text) {
    this.said.textContent = text;
  }

  close() {
    this.closed = true;
    this.loading?.abort();
    this.release();
  }

  release() {
    if (!this.nv) return;
    const { gl } = this.nv;
    this.nv.cleanup();
    gl?.getExtension('WEBGL_lose_context')?.loseContext();
    this.nv = null;
    this.find('.imagetrove-canvas').replaceChildren();
  }

  async load() {
    this.loading?.abort();
    const loading = new AbortController();
    this.loading = loading;
    const { volume } = this;
    this.cancel.hidden = false;
    this.button.disabled = true;
    try {
      this.say('Loading …');
      const [{ Niivue }, buffer] = await Promise.all([
        loadLibrary(this.figure.dataset.niivue),
        this.fetch(volume, loading.signal),
      ]);
      if (loading.signal.aborted || this.closed) return;
      this.say('Drawing …');
      await this.draw(Niivue, buffer, volume.name);
      if (this.closed) return this.release();
      this.say([
        this.placed ? '' : 'Where this image lies in the patient is not known, so no sides are named.',
        volume.doubtful ? 'This image was converted with warnings: see “Conversion” below.' : '',
      ].filter(Boolean).join(' '));
      this.button.hidden = true;
    } catch (error) {
      if (this.closed || loading !== this.loading) return;
      if (loading.signal.aborted) {
        this.say('');
      } else {
        this.showPicture();
        this.say(`The volume cannot be shown: ${error.message}.`);
      }
    } finally {
      if (loading === this.loading) {
        this.cancel.hidden = true;
        this.button.disabled = false;
      }
    }
  }

  // The file from MyTARDIS's own download address, which asks whether this person may have it.
  async fetch(volume, signal) {
    const answer = await fetch(volume.url, { credentials: 'same-origin', signal });
    if (answer.status === 401 || answer.status === 403) throw new Error('MyTARDIS does not let you download it, or you are signed out');
    if (!answer.ok) throw new Error(`MyTARDIS answered ${answer.status}`);
    if (answer.redirected && answer.headers.get('Content-Type')?.startsWith('text/html')) throw new Error('you are signed out');
    const total = Number(volume.bytes);
    const parts = [];
    let got = 0;
    let told = 0;
    for (const reader = answer.body.getReader(); ;) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      got += value.length;
      const percent = Math.min(100, Math.floor((got / total) * 20) * 5);
      if (percent > told) this.say(`Loading … ${percent} % of ${volume.size}`);
      told = Math.max(told, percent);
    }
    return new Blob(parts).arrayBuffer();
  }

  async draw(Niivue, buffer, name) {
    this.release();
    const box = this.find('.imagetrove-canvas');
    const canvas = document.createElement('canvas');
    canvas.tabIndex = 0;
    canvas.setAttribute('role', 'application');
    canvas.setAttribute('aria-roledescription', 'volume viewer');
    canvas.setAttribute('aria-label', `Slices of ${name}`);
    canvas.setAttribute('aria-describedby', 'imagetrove-help');
    box.replaceChildren(canvas);
    box.hidden = false;
    const picture = this.find('.imagetrove-picture');
    if (picture) picture.hidden = true;
    const nv = new Niivue({
      isRadiologicalConvention: true,
      sliceType: THREE_PLANES,
      multiplanarShowRender: 0,
      crosshairColor: [0.92, 0.77, 0.38, 0.8],
      crosshairWidthUnit: 'mm',
      crosshairGap: 4,
      multiplanarPadPixels: 8,
      sagittalNoseLeft: true,
      fontMinPx: 16,
      fontColor: [0.92, 0.77, 0.38, 1],
      backColor: [0.047, 0.055, 0.07, 1],
      scrollRequiresFocus: true,
      dragAndDropEnabled: false,
      viewModeHotKey: '',
      clipPlaneHotKey: '',
      cycleClipPlaneHotKey: '',
      logLevel: 'error',
    });
    nv.onLocationChange = (place) => this.moved(place);
    this.nv = nv;
    await nv.attachToCanvas(canvas);
    await nv.loadFromArrayBuffer(buffer, name);
    if (!nv.volumes.length) throw new Error('the viewer cannot read the file');
    // Without a place no side is the patient's right: the columns go from left to right, as in the picture.
    const { hdr } = nv.volumes[0];
    this.placed = hdr.qform_code > 0 || hdr.sform_code > 0;
    this.find('[data-for="place"]').hidden = !this.placed;
    const names = this.placed ? PLANES : PLANES_WITHOUT_PLACE;
    for (const part of this.figure.querySelectorAll('[data-plane]')) part.textContent = names[part.dataset.plane];
    nv.opts.isOrientationTextVisible = this.placed;
    nv.setRadiologicalConvention(this.placed);
    // What is drawn, in mm: coronal and sagittal plane side by side over the axial one, or the slices alone.
    const [x, y, z] = this.lengths.map((length, axis) => length * nv.volumes[0].pixDimsRAS[axis + 1]);
    const [width, height] = this.placed ? [x + y, y + z] : [x, y];
    box.style.setProperty('--it-shape', Math.min(2.5, Math.max(0.8, width / height)).toFixed(3));
    // Lines of less than a pixel are not drawn at all.
    nv.opts.crosshairWidth = (1.6 * Math.max(width / box.clientWidth, height / box.clientHeight)) / window.devicePixelRatio;
    this.control(canvas);
    canvas.focus({ preventScroll: true });
  }

  showPicture() {
    this.release();
    this.find('.imagetrove-canvas').hidden = true;
    this.find('.imagetrove-controls').hidden = true;
    this.button.hidden = false;
    const picture = this.find('.imagetrove-picture');
    if (picture) picture.hidden = false;
  }

  // How many slices there are along each axis, turned to right, front, head
  get lengths() {
    return this.nv.volumes[0].dimsRAS.slice(1, 4);
  }

  get place() {
    const lengths = this.lengths;
    return [...this.nv.scene.crosshairPos].map((part, axis) =>
      Math.min(lengths[axis] - 1, Math.max(0, Math.floor(part * lengths[axis]))));
  }

  go(place) {
    const lengths = this.lengths;
    this.nv.scene.crosshairPos = place.map((index, axis) =>
      (Math.min(lengths[axis] - 1, Math.max(0, index)) + 0.5) / lengths[axis]);
    this.nv.createOnLocationChange();
    this.nv.drawScene();
  }

  step(axis, by) {
    const { place } = this;
    place[axis] += by;
    this.go(place);
  }

  control(canvas) {
    const { nv } = this;
    const image = nv.volumes[0];
    // In the capturing phase, before NiiVue, whose keys are others.
    if (!this.controlled) {
      this.controlled = true;
      this.find('.imagetrove-canvas').addEventListener('keydown', (event) => this.key(event), true);
      for (const slider of this.figure.querySelectorAll('[data-axis]')) {
        slider.addEventListener('input', () => {
          const { place } = this;
          place[slider.dataset.axis] = Number(slider.value) - 1;
          this.go(place);
        });
      }
      this.find('#imagetrove-time').addEventListener('input', (event) => {
        const [shown] = this.nv.volumes;
        this.nv.setFrame4D(shown.id, Number(event.target.value) - 1);
        this.nv.createOnLocationChange();
        this.told();
      });
      for (const name of ['black', 'white']) {
        this.find(`#imagetrove-${name}`).addEventListener('input', (event) => {
          const [shown] = this.nv.volumes;
          const value = Number(event.target.value);
          if (name === 'black') shown.cal_min = Math.min(value, shown.cal_max - this.grain);
          else shown.cal_max = Math.max(value, shown.cal_min + this.grain);
          this.nv.updateGLVolume();
          this.told();
        });
      }
      for (const button of this.figure.querySelectorAll('[data-view]')) {
        button.addEventListener('click', () => this.turnTo(Number(button.dataset.view)));
      }
      const full = this.find('.imagetrove-full');
      full.hidden = !document.fullscreenEnabled;
      full.addEventListener('click', () => (document.fullscreenElement ? document.exitFullscreen() : this.figure.requestFullscreen()));
      this.figure.addEventListener('fullscreenchange', () => {
        full.textContent = document.fullscreenElement ? 'Leave full screen' : 'Full screen';
      });
    }
    canvas.addEventListener('pointerup', () => this.told()); // NiiVue's own drag sets black and white
    this.lengths.forEach((length, axis) => {
      const slider = this.find(`#imagetrove-${AXES[axis]}`);
      slider.max = length;
      slider.disabled = length < 2;
    });
    for (const part of this.figure.querySelectorAll('[data-for="time"]')) part.hidden = !(image.nFrame4D > 1);
    this.find('#imagetrove-time').max = image.nFrame4D;
    const [low, high] = [Number(image.global_min), Number(image.global_max)];
    this.grain = (high - low) / 500;
    const coloured = image.hdr.datatypeCode === 128 || image.hdr.datatypeCode === 2304;
    for (const part of this.figure.querySelectorAll('[data-for="window"]')) part.hidden = coloured || !(high > low);
    for (const name of ['black', 'white']) Object.assign(this.find(`#imagetrove-${name}`), { min: low, max: high });
    this.find('.imagetrove-controls').hidden = false;
    this.turnTo(this.placed ? THREE_PLANES : SLICES_ONLY);
    this.go(this.lengths.map((length) => Math.floor(length / 2)));
    this.told();
  }

  turnTo(view) {
    this.view = view;
    this.nv.setSliceType(view);
    for (const button of this.figure.querySelectorAll('[data-view]')) {
      button.setAttribute('aria-pressed', String(Number(button.dataset.view) === view));
    }
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.key === 'Tab' || event.key === 'Escape') return;
    event.stopPropagation();
    const by = event.shiftKey ? 5 : 1;
    const one = { 0: 2, 1: 1, 2: 0 }[this.view]; // the axis across the only plane that is shown
    const moves = {
      ArrowUp: [one ?? 2, by], ArrowDown: [one ?? 2, -by],
      ArrowRight: [one ?? 0, by], ArrowLeft: [one ?? 0, -by],
      PageUp: [one ?? 1, one === undefined ? by : 10], PageDown: [one ?? 1, one === undefined ? -by : -10],
    };
    if (event.key in moves) this.step(...moves[event.key]);
    else if (event.key === 'Home') this.go(this.lengths.map((length) => Math.floor(length / 2)));
    else return;
    event.preventDefault();
  }

  moved({ mm, values }) {
    if (!this.nv?.volumes.length) return;
    this.place.forEach((index, axis) => {
      const slider = this.find(`#imagetrove-${AXES[axis]}`);
      slider.value = index + 1;
      slider.setAttribute('aria-valuetext', `slice ${index + 1} of ${slider.max}`);
      slider.nextElementSibling.textContent = `${index + 1} / ${slider.max}`;
    });
    const [x, y, z] = mm;
    const side = (value, positive, negative) => `${Math.abs(value).toFixed(1)} mm ${value < 0 ? negative : positive}`;
    const [image] = this.nv.volumes;
    // Of a colour, NiiVue's own value is its brightness.
    const colour = image.hdr.datatypeCode === 128 || image.hdr.datatypeCode === 2304
      ? image.getValues(...this.place, image.frame4D) : [];
    const value = Number(values[0]?.value);
    const shown = colour.length > 2 ? `red ${colour[0]}, green ${colour[1]}, blue ${colour[2]}`
      : Number.isFinite(value) ? Number(value.toPrecision(6)) : '';
    this.find('.imagetrove-place').textContent = [
      this.placed ? `${side(x, 'R', 'L')}, ${side(y, 'A', 'P')}, ${side(z, 'S', 'I')}` : '',
      shown,
    ].filter((part) => part !== '').join(': ');
  }

  // Brings the sliders up to the image's frame and window.
  told() {
    const [image] = this.nv.volumes;
    const time = this.find('#imagetrove-time');
    time.value = image.frame4D + 1;
    time.nextElementSibling.textContent = `${image.frame4D + 1} / ${time.max}`;
    for (const [name, value] of [['black', image.cal_min], ['white', image.cal_max]]) {
      const slider = this.find(`#imagetrove-${name}`);
      slider.value = value;
      slider.nextElementSibling.textContent = String(Number(Number(value).toPrecision(4)));
    }
  }
}

if (root) {
  prepareList();
  prepareViewer();
  prepareCitation();
}
