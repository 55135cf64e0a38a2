// A language that is chosen from a list, or pointed at in a figure, is brought out: drawn again on top, with its name.
'use strict';
{
  const SPACE = 'http://www.w3.org/2000/svg', NEAR = 14, figures = [];

  const marks = svg => [...svg.querySelectorAll('[id*="-choice-"]')];
  const number = mark => mark.id.slice(mark.id.lastIndexOf('-') + 1);

  // The corners of a line, or the places of a mark, in the drawing's units.
  const points = mark => {
    const places = [...mark.querySelectorAll('use')].map(use => [+use.getAttribute('x'), +use.getAttribute('y')]);
    if (places.length) return places;
    const numbers = [...mark.querySelectorAll('path')].map(path => path.getAttribute('d')).join(' ').match(/-?[\d.]+/g);
    return (numbers || []).flatMap((x, i) => i % 2 ? [] : [[+x, +numbers[i + 1]]]);
  };

  const distance = ([x, y], corners) => {
    let least = Math.hypot(corners[0][0] - x, corners[0][1] - y);
    for (let i = 1; i < corners.length; i++) {
      const [ax, ay] = corners[i - 1], [dx, dy] = [corners[i][0] - ax, corners[i][1] - ay];
      const along = Math.max(0, Math.min(1, ((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy || 1)));
      least = Math.min(least, Math.hypot(ax + along * dx - x, ay + along * dy - y));
    }
    return least;
  };

  const show = (svg, choice, title) => {
    svg.querySelectorAll('.chosen').forEach(shown => shown.remove());
    const mark = choice !== '' && marks(svg).find(mark => number(mark) === choice);
    if (!mark) return;
    const copy = mark.cloneNode(true), name = document.createElementNS(SPACE, 'text');
    const [x, y] = points(mark).at(-1), middle = svg.viewBox.baseVal.width / 2;
    copy.removeAttribute('id');
    copy.setAttribute('class', 'chosen');
    name.setAttribute('class', 'chosen');
    name.setAttribute('x', x > middle ? x - 6 : x + 6);
    name.setAttribute('y', y - 7);
    name.setAttribute('text-anchor', x > middle ? 'end' : 'start');
    name.textContent = title;
    svg.append(copy, name);
  };

  for (const figure of document.querySelectorAll('figure:has(.choose)')) {
    const select = figure.querySelector('.choose select'), drawings = [...figure.querySelectorAll('svg[role=img]')];
    const title = choice => [...select.options].find(option => option.value === choice).text;
    const settle = () => drawings.forEach(svg => show(svg, select.value, title(select.value)));
    figures.push({select, settle});
    select.closest('.choose').hidden = false;
    // What is chosen in one figure is brought out in all that have it.
    select.addEventListener('change', () => {
      const text = title(select.value);
      for (const other of figures) {
        const option = [...other.select.options].find(option => option.text === text);
        other.select.value = option ? option.value : '';
        other.settle();
      }
    });
    for (const svg of drawings) {
      const corners = marks(svg).map(mark => [number(mark), points(mark)]);
      svg.addEventListener('pointermove', event => {
        const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
        const near = corners.map(([choice, of]) => [distance([place.x, place.y], of), choice]).sort((a, b) => a[0] - b[0])[0];
        if (near && near[0] < NEAR) show(svg, near[1], title(near[1]));
        else show(svg, select.value, title(select.value));
      });
      svg.addEventListener('pointerleave', () => show(svg, select.value, title(select.value)));
    }
    settle();
  }
}
