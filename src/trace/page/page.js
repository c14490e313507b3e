"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const [TURN, ACT, LINE, WORLD, CHANGES] = [0, 1, 2, 3, 4];
  const EVERY = 64;
  const group = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, ",");
  const make = (tag, text, className) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (className) element.className = className;
    return element;
  };

  // Captions stand in the lists below the player, once.
  const lists = new Map();
  for (const list of document.querySelectorAll("ol.steps")) lists.set(list.dataset.run, list);
  for (const run of data.runs) {
    run.told = Array.from(lists.get(run.name).children, (item) => ({
      caption: item.querySelector("span").textContent,
      raw: item.querySelector("code").textContent,
      why: item.querySelector("small") ? item.querySelector("small").textContent : "",
    }));
    run.full = [];
    let state = {};
    run.steps.forEach((step, index) => {
      state = apply({ ...state }, step[CHANGES]);
      if (index % EVERY === 0) run.full.push(state);
    });
  }
  function apply(state, changes) {
    for (const [key, value] of Object.entries(changes)) {
      if (value === null) delete state[key];
      else state[key] = value;
    }
    return state;
  }
  /** The state after a step. */
  function stateAt(run, step) {
    const base = Math.floor(step / EVERY);
    const state = { ...run.full[base] };
    for (let index = base * EVERY + 1; index <= step; index++) apply(state, run.steps[index][CHANGES]);
    return state;
  }

  const stories = data.stories.length ? data.stories : null;
  let story = stories && stories[0], side = 0, step = 0, playing = null, chosen = {}, shownRun = null;
  const run = () => data.runs[story ? story.runs[side] : 0];
  const markAt = (name) => run().marks.find((mark) => mark.name === name);
  const stop = () => markAt("stop");
  const bound = (n) => Math.max(0, Math.min(run().steps.length - 1, n));

  function go(to, how) {
    step = bound(to);
    draw(how || "hand");
  }

  /** The other loop at the same place of the script. */
  function turnTo(other) {
    if (!story || other === side) return;
    const before = run(), act = before.steps[step][ACT];
    const wasAtStop = stop() && step === stop().step;
    side = other;
    const steps = run().steps;
    if (wasAtStop) step = stop().step;
    else {
      // As far into the same event of the script, or to its last step.
      const first = (list) => list.findIndex((s) => s[ACT] === act);
      const into = step - first(before.steps), begin = first(steps);
      let last = begin;
      while (last + 1 < steps.length && steps[last + 1][ACT] === act) last++;
      step = begin < 0 ? 0 : Math.min(begin + into, last);
    }
    draw("hand");
  }

  function choose(next, atSide, place) {
    story = next;
    side = atSide;
    step = 0;
    if (place === undefined) step = Math.max(0, (stop() ? stop().step : 1) - 1);
    else {
      const mark = markAt(place), number = Number(place);
      if (mark) step = mark.step;
      else if (/^\d+$/.test(place)) step = bound(number - 1);
    }
    draw("hand");
  }

  function readAddress() {
    const [name, which, place] = decodeURIComponent(location.hash.slice(1)).split("/");
    if (!stories) {
      const mark = name && markAt(name);
      go(mark ? mark.step : /^\d+$/.test(name) ? Number(name) - 1 : 0);
      return;
    }
    const next = stories.find((s) => s.name === name);
    const atSide = which === "cure" ? 1 : 0;
    if (next) choose(next, atSide, place);
    else choose(stories[0], 0);
  }
  function writeAddress() {
    const mark = run().marks.find((m) => m.step === step);
    const place = mark ? mark.name : String(step + 1);
    const hash = story ? `#${story.name}/${side ? "cure" : "mistake"}/${place}` : `#${place}`;
    if (location.hash !== hash) {
      try { history.replaceState(null, "", hash); } catch { /* some browsers forbid it for files */ }
    }
  }

  // ---- drawing ----

  function draw(how) {
    const now = run(), state = stateAt(now, step), before = step > 0 ? stateAt(now, step - 1) : {};
    if (shownRun !== now) drawRun(now);
    drawLines(now);
    drawGlobals(state, before);
    drawConns(state, before);
    const told = now.told[step];
    $("caption").setAttribute("aria-live", how === "play" ? "off" : "polite");
    $("caption").textContent = told.caption;
    $("raw").firstElementChild.textContent = told.raw;
    $("why").textContent = told.why;
    drawQuestion(now);
    const range = $("range");
    range.value = step;
    range.setAttribute("aria-valuetext", `step ${step + 1} of ${now.steps.length}: ${told.caption}`);
    $("where").textContent = `step ${step + 1} of ${now.steps.length}`;
    for (const item of $("marks").querySelectorAll("button")) {
      item.setAttribute("aria-current", Number(item.dataset.step) === step ? "step" : "false");
    }
    document.body.dataset.at = `${now.name}/${step + 1}`;
    // A slider in motion would be too fast for the browser's history.
    if (how !== "scrub") writeAddress();
  }

  function drawRun(now) {
    shownRun = now;
    $("story").hidden = !story;
    if (story) {
      const number = stories.indexOf(story) + 1;
      $("title").textContent = `${number}. ${story.title}`;
      $("point").textContent = story.text;
      if (story.seen.length) $("point").append(make("span", ` Seen in ${story.seen.join(", ")}.`, "seen"));
      document.title = `${story.title} · an event loop`;
      for (const link of document.querySelectorAll("nav a")) {
        if (link.dataset.story !== story.name) { link.removeAttribute("aria-current"); continue; }
        link.setAttribute("aria-current", "true");
        link.closest("nav").scrollTo(link.offsetLeft - 24, link.offsetTop - 80);
      }
    }
    for (const button of $("sides").children) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.side) === side));
    }
    document.body.dataset.side = story ? (side ? "cure" : "mistake") : "";
    document.body.dataset.simulated = now.simulated;
    $("file").textContent = now.code.file ? `${now.code.file}:${now.code.first}` : "";
    $("code").hidden = !now.code.lines.length;
    const lines = $("lines");
    lines.textContent = "";
    lines.start = now.code.first;
    now.code.lines.forEach((text, index) => {
      const number = now.code.first + index, changed = now.code.changed.includes(number);
      const item = make("li", undefined, changed ? "changed" : "");
      item.value = number;
      const code = make("code", text || " ");
      code.style.setProperty("--indent", text.search(/\S|$/));
      item.append(code);
      lines.append(item);
    });
    $("range").max = now.steps.length - 1;
    const marks = $("marks"), ticks = $("ticks");
    marks.textContent = ticks.textContent = "";
    for (const mark of now.marks) {
      const item = make("li"), button = make("button", `${mark.name === "stop" ? "◆" : "◇"} ${mark.text}`);
      button.type = "button";
      button.dataset.step = mark.step;
      button.addEventListener("click", () => { pause(); go(mark.step); });
      item.append(button);
      marks.append(item);
      const tick = make("i", mark.name === "stop" ? "◆" : "◇");
      tick.style.left = `${100 * mark.step / Math.max(1, now.steps.length - 1)}%`;
      ticks.append(tick);
    }
    drawOverview(now);
  }

  function drawOverview(now) {
    const svg = $("overview"), all = now.overview;
    svg.toggleAttribute("hidden", !all);
    svg.textContent = "";
    if (!all) return;
    const most = Math.max(...all.parts), shape = (tag, attributes) => {
      const element = document.createElementNS(svg.namespaceURI, tag);
      for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
      svg.append(element);
      return element;
    };
    shape("title", {}).textContent = all.text;
    all.parts.forEach((n, x) => {
      const height = n ? 2 + 18 * n / most : 0, here = x >= all.from && x <= all.to;
      shape("rect", { x, y: 20 - height, width: 0.8, height, class: here ? "here" : "" });
    });
    svg.setAttribute("aria-label", all.text);
    $("pace").title = all.text;
  }

  function drawLines(now) {
    // An act of a client leaves the loop where it was.
    let at = step;
    while (at > 0 && now.steps[at][LINE] === null) at--;
    const line = now.steps[at][LINE];
    let current = null;
    for (const item of $("lines").children) {
      const here = item.value === line;
      item.classList.toggle("now", here);
      item.classList.toggle("resting", here && at !== step);
      item.classList.toggle("near", line !== null && Math.abs(item.value - line) <= 3);
      if (here) { item.setAttribute("aria-current", "true"); current = item; } else item.removeAttribute("aria-current");
    }
    const list = $("lines");
    if (current) {
      const top = current.offsetTop;
      if (top < list.scrollTop || top > list.scrollTop + list.clientHeight - 40) list.scrollTop = top - list.clientHeight / 2;
    }
    list.classList.toggle("lost", line === null);
  }

  /** Fills a cell, with an outline and the difference if it changed. */
  function fill(cell, text, changed, difference) {
    cell.textContent = text;
    cell.classList.toggle("changed", Boolean(changed));
    if (changed && typeof difference === "number" && difference !== 0) {
      cell.append(make("small", (difference > 0 ? "+" : "−") + group(Math.abs(difference)), "delta"));
    }
  }

  function drawGlobals(state, before) {
    const changed = (key) => step > 0 && state[key] !== before[key];
    fill($("loop"), state.loop, changed("loop"));
    $("loop").dataset.loop = state.loop;
    fill($("turn"), state.turn, changed("turn"));
    fill($("time"), `${state.time} s`, changed("time"));
    const waiting = state.queue ? state.queue.split(" ") : [];
    const names = waiting.length > 6 ? `${waiting.slice(0, 6).join(" ")} … (${waiting.length})` : waiting.join(" ");
    fill($("queue"), names || "empty", changed("queue") || changed("edge"));
    $("queue").append(make("small", state.edge ? " event to come" : waiting.length ? " no event to come" : "", state.edge ? "edge yes" : "edge"));
  }

  function drawConns(state, before) {
    const body = $("conns").tBodies[0];
    const names = Object.keys(state).filter((key) => key.endsWith(".stage")).map((key) => key.slice(0, -6));
    names.sort((a, b) => Number(a.slice(1)) - Number(b.slice(1)));
    const live = names.filter((name) => state[`${name}.stage`] !== "closed");
    const shown = names.length > 12 ? names.filter((name) => live.includes(name) || touched(name)).slice(0, 40) : names;
    function touched(name) {
      return Object.keys(run().steps[step][CHANGES]).some((key) => key.startsWith(`${name}.`));
    }
    body.textContent = "";
    let first = null;
    for (const name of shown) {
      const get = (key) => state[`${name}.${key}`];
      const changed = (...keys) => step > 0 && keys.some((key) => get(key) !== before[`${name}.${key}`]);
      const difference = (key) => (get(key) || 0) - (before[`${name}.${key}`] || 0);
      const row = make("tr", undefined, get("stage") === "closed" ? "closed" : "");
      const cell = (kind, className) => { const made = make(kind, undefined, className); row.append(made); return made; };
      if (step > 0 && touched(name)) {
        row.classList.add("here");
        first ??= row;
      }
      const head = cell("th");
      head.scope = "row";
      head.append(make("b", name), make("small", get("stage")));
      if (changed("stage")) head.classList.add("changed");
      const bits = cell("td", "bits");
      for (const [index, letter] of ["R", "W", "P", "C"].entries()) {
        const on = (get("told") || "----")[index] !== "-";
        const bit = make("b", letter, on ? "bit on" : "bit");
        bit.title = `${["readable", "writable", "urgent", "closed"][index]}: ${on ? "yes" : "no"}`;
        const was = (before[`${name}.told`] || "----")[index] !== "-";
        if (step > 0 && on !== was) bit.classList.add("changed");
        bits.append(bit);
      }
      const keeps = cell("td", "keeps");
      const parts = [];
      if (get("held")) parts.push(`${group(get("held"))} unsent`);
      if (get("place")) parts.push(`run queue: ${get("place")}`);
      if (get("deadline")) parts.push(`until ${get("deadline")} s`);
      fill(keeps, parts.join(", ") || "–", changed("held", "place", "deadline"), get("held") ? difference("held") : 0);
      const receive = cell("td", "k");
      if (get("unread") === undefined) fill(receive, "?", false);
      else {
        fill(receive, group(get("unread")), changed("unread", "end", "urgent", "way"), difference("unread"));
        receive.prepend(meter(get("unread"), get("window"), "in"));
        const notes = [get("way") ? `${group(get("way"))} on the way` : "", get("urgent") || "", get("end") ? "then the end" : ""];
        const note = notes.filter(Boolean).join(", ");
        if (note) receive.append(make("small", note));
      }
      const edge = cell("td", "k");
      const open = get("stage") !== "closed" && get("stage") !== "in the accept queue";
      const owed = get("edge") ? "yes" : get("owed") ? "when there is room" : "none";
      fill(edge, get("edge") === undefined ? "?" : open ? owed : "–", changed("edge", "owed"));
      if (get("edge")) edge.classList.add("yes");
      const room = cell("td", "k");
      if (get("room") === undefined) fill(room, "?", false);
      else {
        fill(room, group(get("room")), changed("room"), difference("room"));
        room.prepend(meter(get("room"), get("capacity"), "out"));
      }
      fill(cell("td", "c"), group(get("put") || 0), changed("put"), difference("put"));
      const got = cell("td", "c");
      fill(got, group(get("got") || 0), changed("got", "reset"), difference("got"));
      if (get("reset")) got.append(make("small", "then a reset"));
      body.append(row);
      if (get("gap")) {
        const note = make("tr", undefined, "gap"), text = make("td", `⚠ ${name}: ${get("gap")}`);
        text.colSpan = 8;
        note.append(text);
        body.append(note);
      }
    }
    const scroll = $("scroll");
    if (first && scroll.scrollHeight > scroll.clientHeight) {
      const below = first.offsetTop + first.offsetHeight > scroll.scrollTop + scroll.clientHeight;
      if (below || first.offsetTop < scroll.scrollTop + 60) scroll.scrollTop = first.offsetTop - scroll.clientHeight / 2;
    }
    if (shown.length < names.length) {
      const note = make("tr"), text = make("td", `${group(names.length - shown.length)} more connections are closed or quiet`);
      text.colSpan = 8;
      note.append(text);
      body.append(note);
    }
  }

  function meter(value, most, kind) {
    const outer = make("span", undefined, `meter ${kind}`), inner = make("i");
    outer.setAttribute("aria-hidden", "true");
    inner.style.width = `${Math.min(100, 100 * value / Math.max(1, most))}%`;
    outer.append(inner);
    return outer;
  }

  function drawQuestion(now) {
    const ask = $("ask");
    ask.textContent = "";
    const end = step === now.steps.length - 1 ? make("p", now.end, "end") : null;
    if (story && stop()) {
      const at = stop().step;
      if (side === 0 && step === at - 1) {
        ask.append(make("p", story.question, "question"));
        const list = make("div", undefined, "answers");
        story.answers.forEach(([text, reply, right], index) => {
          const button = make("button", text);
          button.type = "button";
          button.dataset.answer = index;
          if (chosen[story.name] === index) button.classList.add(right ? "right" : "wrong");
          button.addEventListener("click", () => { chosen[story.name] = index; draw("hand"); });
          list.append(button);
        });
        ask.append(list);
        const pick = story.answers[chosen[story.name]];
        if (pick) {
          const reply = make("p", `${pick[2] ? "✓ Right." : "✗ Not so."} ${pick[1]} `, "reply");
          const on = make("button", "See it: next step ›");
          on.type = "button";
          on.addEventListener("click", () => { go(step + 1); $("stage").focus({ preventScroll: true }); });
          reply.append(on);
          ask.append(reply);
        }
      } else if (step >= at) {
        const rule = make("p", undefined, "rule");
        rule.append(make("b", "Rule. "), `${story.rule} `);
        const link = (text, path) => { const made = make("a", text); made.href = `../${path}`; return made; };
        rule.append(link(story.source[0], story.source[0]), " ", make("code", story.source[1], "line"));
        rule.append(" To practice: ", link(...story.exercise), ". A program about it: ");
        story.programs.forEach((program, index) => rule.append(index ? ", " : "", link(...program)));
        rule.append(".");
        const next = make("button", side === 0 ? "Now the cure ›" : "Next story ›");
        next.type = "button";
        next.addEventListener("click", () => {
          pause();
          if (side === 0) turnTo(1);
          else choose(stories[(stories.indexOf(story) + 1) % stories.length], 0);
        });
        rule.append(" ", next);
        ask.append(rule);
      }
    }
    if (end) ask.append(end);
    else {
      const idle = fold(now);
      if (idle) ask.append(make("p", idle, "fold"));
    }
  }

  /** Turns from here on in which nothing happens. */
  function fold(now) {
    let at = step + 1, turns = 0;
    while (at < now.steps.length && /^(poll|now)\(/.test(now.told[at].raw)) {
      turns += now.told[at].raw.startsWith("poll(") ? 1 : 0;
      at++;
    }
    if (turns < 4) return "";
    const wait = Number(stateAt(now, at - 1).time) - Number(stateAt(now, step).time);
    return `${group(turns)} turns follow in which nothing happens; ${wait.toFixed(1)} s.`;
  }

  // ---- travelling ----

  function toTurn(direction) {
    const steps = run().steps, turn = steps[step][TURN];
    let at = step;
    if (direction > 0) {
      while (at < steps.length - 1 && steps[at][TURN] === turn) at++;
    } else {
      const begins = (i) => i === 0 || steps[i - 1][TURN] !== steps[i][TURN];
      at = Math.max(0, at - 1);
      while (!begins(at)) at--;
    }
    go(at);
  }
  function toMark(direction) {
    const all = run().marks.map((mark) => mark.step);
    const next = direction > 0 ? all.find((at) => at > step) : all.filter((at) => at < step).pop();
    if (next !== undefined) go(next);
  }

  function pause() {
    clearTimeout(playing);
    playing = null;
    const button = document.querySelector('[data-do="play"]');
    button.textContent = "▶";
    button.setAttribute("aria-label", "Play");
  }
  function play() {
    if (playing !== null) return pause();
    if (step === run().steps.length - 1) return;
    const button = document.querySelector('[data-do="play"]');
    button.textContent = "⏸";
    button.setAttribute("aria-label", "Pause");
    const tick = () => {
      if (step >= run().steps.length - 1) return pause();
      go(step + 1, "play");
      const isQuestion = side === 0 && stop() && step === stop().step - 1;
      if (isQuestion || (stop() && step === stop().step)) return pause();
      const words = run().told[step].caption.split(" ").length;
      playing = setTimeout(tick, Math.max(1500, words * 280) * Number($("speed").value));
    };
    playing = setTimeout(tick, 300);
  }

  function help() {
    const button = document.querySelector('[data-do="help"]'), open = $("help").hidden;
    $("help").hidden = !open;
    button.setAttribute("aria-expanded", String(open));
  }

  const actions = {
    "step-": () => go(step - 1), "step+": () => go(step + 1),
    "turn-": () => toTurn(-1), "turn+": () => toTurn(1),
    "mark-": () => toMark(-1), "mark+": () => toMark(1),
    play, help,
  };
  for (const button of document.querySelectorAll("[data-do]")) {
    button.addEventListener("click", () => {
      if (button.dataset.do !== "play" && button.dataset.do !== "help") pause();
      actions[button.dataset.do]();
    });
  }
  for (const button of $("sides").children) {
    button.addEventListener("click", () => { pause(); turnTo(Number(button.dataset.side)); });
  }
  $("range").addEventListener("input", () => { pause(); go(Number($("range").value), "scrub"); });
  $("range").addEventListener("change", writeAddress);
  $("mode").addEventListener("click", () => {
    const root = document.documentElement;
    const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
    const next = (root.dataset.theme || system) === "dark" ? "light" : "dark";
    if (next === system) delete root.dataset.theme;
    else root.dataset.theme = next;
  });
  $("stage").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const onControl = event.target.closest("button, select, a"), onRange = event.target === $("range");
    const keys = {
      ArrowLeft: event.shiftKey ? "turn-" : "step-", ArrowRight: event.shiftKey ? "turn+" : "step+",
      "[": "mark-", "]": "mark+", "?": "help", " ": "play",
    };
    const name = keys[event.key];
    if (event.key === " " && (onControl || onRange)) return;
    if (event.target.tagName === "SELECT") return;
    if (name) { if (name !== "play" && name !== "help") pause(); actions[name](); }
    else if (event.key === "Home") { pause(); go(0); }
    else if (event.key === "End") { pause(); go(run().steps.length - 1); }
    else if (event.key === "m") { pause(); turnTo(1 - side); }
    else return;
    event.preventDefault();
  });
  addEventListener("hashchange", () => { pause(); readAddress(); });
  document.addEventListener("click", (event) => {
    const link = event.target.closest("nav a[data-story]");
    if (!link) return;
    event.preventDefault();
    pause();
    choose(stories.find((s) => s.name === link.dataset.story), 0);
    $("player").scrollIntoView();
    $("stage").focus({ preventScroll: true });
  });
  addEventListener("beforeprint", () => {
    for (const details of document.querySelectorAll("#texts details")) details.open = true;
  });

  for (const details of document.querySelectorAll("#texts details")) details.open = false;
  $("player").hidden = false;
  document.body.classList.add("live");
  readAddress();
})();
