"""Put many mutants into one build, each behind a switch, so that a mutant costs its tests and no build.

A mutant is what `cargo mutants --list --json` says: a place in a file and what takes its place. `a < b`
with two of them becomes `(if on(7) { a <= b } else if on(8) { a == b } else { a < b })`, a function starts
with `if on(9) { return 0; }`, and an arm of a match gets a guard. `on` is true for the number in the
environment variable MUTANT, and false while a constant is computed. It needs the packages tree-sitter and
tree-sitter-rust.
"""

import re
import typing

import tree_sitter
import tree_sitter_rust

SWITCH = b"crate::mutant_switch::on"
SWITCH_FEATURES = b"#![feature(core_intrinsics, const_eval_select)] "
SWITCH_MODULE = """//! Which mutant is on, or which a run reaches.

use core::{intrinsics::const_eval_select, ptr::null_mut};
use std::{env::var, fs::File, os::fd::AsRawFd};
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering::Relaxed};

const UNREAD: u32 = u32::MAX;
/// None is on, and each that is reached leaves a mark.
const MARKING: u32 = u32::MAX - 1;

static CHOSEN: AtomicU32 = AtomicU32::new(UNREAD);
static MARKS: AtomicPtr<u8> = AtomicPtr::new(null_mut());

#[inline(always)]
pub(crate) const fn on(number: u32) -> bool {
    const_eval_select((number,), in_a_constant, when_it_runs)
}

const fn in_a_constant(_: u32) -> bool {
    false
}

#[inline(always)]
fn when_it_runs(number: u32) -> bool {
    let chosen = CHOSEN.load(Relaxed);
    chosen == number || (chosen >= MARKING && reach(number))
}

#[cold]
fn reach(number: u32) -> bool {
    if CHOSEN.load(Relaxed) == UNREAD {
        let chosen = var("MUTANT").map_or(0, |number| number.parse().expect("a number"));
        if chosen == MARKING {
            let file = File::options().read(true).write(true).open(var("MARKS").expect("a file"));
            MARKS.store(map(&file.expect("a file of marks")), Relaxed);
        }
        CHOSEN.store(chosen, Relaxed);
        return chosen == number || (chosen == MARKING && reach(number));
    }
    let marks = MARKS.load(Relaxed);
    if !marks.is_null() {
        // SAFETY: the file has room for every mutant.
        unsafe { marks.add(number as usize).write_volatile(1) };
    }
    false
}

/// Other processes, and those that are killed, leave their marks in the same file.
fn map(file: &File) -> *mut u8 {
    let len = file.metadata().expect("its size").len() as usize;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping overlaps no other.
    let at = unsafe { libc::mmap(null_mut(), len, access, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    assert!(at != libc::MAP_FAILED, "no room for the marks");
    at.cast()
}
"""
# Around what belongs to a mutant, until its place in the new file is known.
MARK = re.compile(rb"\x01(\d+)\x02|\x03")
PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_rust.language()))


class NoSwitch(Exception):
    """A mutant that a switch cannot express."""


class Edit(typing.NamedTuple):
    """What takes the place of source[start:end]. `render(inner)` is its text; `inner(a, b)` is
    source[a:b] with the edits in it. Of two edits of the same place, the one of layer 0 is outside."""

    start: int
    end: int
    layer: int
    render: typing.Callable


def with_switches(source, mutants):
    """Return the source with the mutants {number: mutant} in it, where they are as [(start, end,
    number)], and the numbers of those that a switch cannot express."""
    tree = PARSER.parse(source)
    groups, without = {}, set()
    for number, mutant in mutants.items():
        start, end = span(source, mutant)
        try:
            key = KINDS.get(mutant["genre"], no_kind)(tree.root_node, start, end)
            groups.setdefault(key, []).append((number, mutant["replacement"].encode(), start, end))
        except NoSwitch:
            without.add(number)
    edits = sorted((RENDER[kind](source, start, end, group) for (kind, start, end), group in groups.items()),
                   key=lambda edit: (edit.start, -edit.end, edit.layer))
    return *unmarked(render(source, 0, len(source), edits)), without


def plain(source, mutants):
    """Return the source with these mutants, {number: mutant}, in it and no switch, and the places of their
    functions there, [(start, end, number)]. No two may be in the same function."""
    text, at, places = b"", 0, []
    for number, mutant in sorted(mutants.items(), key=lambda item: span(source, item[1])):
        start, end = span(source, mutant)
        around_it = span(source, mutant["function"]) if mutant["function"] else (start, end)
        text += source[at:start]
        begin = len(text) - (start - around_it[0])
        text, at = text + mutant["replacement"].encode(), end
        places.append((begin, len(text) + around_it[1] - end, number))
    return text + source[at:], places


def may_be_constant(source, mutant):
    """Whether the compiler may compute it, which does so with all switches off."""
    start, end = span(source, mutant)
    kinds = ["function_item", "const_item", "static_item", "const_block", "array_type", "source_file"]
    item = node_at(PARSER.parse(source).root_node, start, end, kinds)
    return item.type != "function_item" or any(
        child.type == "function_modifiers" and b"const" in child.text for child in item.children)


def span(source, mutant):
    """Where in the source it is: cargo-mutants counts lines and characters, from one."""
    lines = source.split(b"\n")

    def offset(place):
        before, line = lines[:place["line"] - 1], lines[place["line"] - 1].decode()
        return sum(len(line) + 1 for line in before) + len(line[:place["column"] - 1].encode())

    return offset(mutant["span"]["start"]), offset(mutant["span"]["end"])


def render(source, start, end, edits):
    text, at, rest = b"", start, list(edits)
    while rest:
        edit = rest.pop(0)
        nested = [other for other in rest if other.start < edit.end]
        rest = rest[len(nested):]

        def inner(a, b, nested=nested):
            return render(source, a, b, [other for other in nested if a <= other.start and other.end <= b])

        text += source[at:edit.start] + edit.render(inner)
        at = edit.end
    return text + source[at:end]


def unmarked(text):
    """Return the text without marks, and the places that were marked."""
    clean, at, places, open_marks = b"", 0, [], []
    for mark in MARK.finditer(text):
        clean += text[at:mark.start()]
        at = mark.end()
        if mark.group(1):
            open_marks.append((len(clean), int(mark.group(1))))
        else:
            start, number = open_marks.pop()
            places.append((start, len(clean), number))
    return clean + text[at:], places


def marked(number, text):
    return b"\x01%d\x02%s\x03" % (number, text)


# The kinds: each finds the piece of source that its mutants share.

def node_at(root, start, end, types):
    """The smallest node of these types around source[start:end]."""
    node = root.descendant_for_byte_range(start, end)
    while node is not None and node.type not in types:
        node = node.parent
    if node is None:
        raise NoSwitch
    return node


def around(source, start, end, kind):
    """Where the smallest node of this type is that holds source[start:end]; nowhere if there is none."""
    try:
        node = node_at(PARSER.parse(source).root_node, start, end, [kind])
        return node.start_byte, node.end_byte
    except NoSwitch:
        return end, start


def function_body(root, start, end):
    block = node_at(root, start, end, ["block"])
    while block.parent.type != "function_item":
        block = block.parent
    return "body", block.start_byte + 1, block.start_byte + 1


def binary(root, start, end):
    node = node_at(root, start, end, ["binary_expression", "compound_assignment_expr"])
    operator = node.child_by_field_name("operator")
    is_it = operator is not None and (operator.start_byte, operator.end_byte) == (start, end)
    if not is_it or holds_let(node) or is_constant(node):
        raise NoSwitch
    return "value", node.start_byte, node.end_byte


def unary(root, start, end):
    node = node_at(root, start, end, ["unary_expression"])
    if (node.start_byte, node.start_byte + 1) != (start, end) or is_constant(node):
        raise NoSwitch
    return "value", node.start_byte, node.end_byte


def holds_let(node):
    return node.type in ("let_condition", "let_chain") or any(holds_let(child) for child in node.children)


def is_constant(node):
    """Whether the value is computed by the compiler, with all switches off."""
    while node.type not in ("function_item", "source_file"):
        if node.type in ("const_item", "static_item", "array_type", "const_block"):
            return True
        node = node.parent
    return False


def arm_of(root, start, end):
    arm = node_at(root, start, end, ["match_arm"])
    pattern = arm.child_by_field_name("pattern")
    condition = pattern.child_by_field_name("condition")
    if condition is not None and holds_let(condition):
        raise NoSwitch
    return pattern, condition


def arm(root, start, end):
    pattern, condition = arm_of(root, start + 1, start + 2)
    if condition is None:
        return "unguarded", pattern.end_byte, pattern.end_byte
    return "guard", condition.start_byte, condition.end_byte


def guard(root, start, end):
    _, condition = arm_of(root, start, end)
    if condition is None or (condition.start_byte, condition.end_byte) != (start, end):
        raise NoSwitch
    return "guard", start, end


def no_kind(root, start, end):
    raise NoSwitch


KINDS = {"FnValue": function_body, "BinaryOperator": binary, "UnaryOperator": unary, "MatchArm": arm,
         "MatchArmGuard": guard}


# What the pieces become.

def body_edit(source, start, end, group):
    returns = b"".join(marked(number, b" if %s(%d) { return %s; }" % (SWITCH, number, value))
                       for number, value, _, _ in group)
    return Edit(start, end, 0, lambda inner: returns)


def value_edit(source, start, end, group):
    def text(inner):
        mutants = b"".join(
            marked(number, b"if %s(%d) { %s%s%s } else " %
                   (SWITCH, number, source[start:a], value, source[b:end]))
            for number, value, a, b in group)
        return b"(%s{ %s })" % (mutants, inner(start, end))
    return Edit(start, end, 1, text)


def unguarded_edit(source, start, end, group):
    [(number, _, _, _)] = group
    return Edit(start, end, 0, lambda inner: marked(number, b" if !%s(%d)" % (SWITCH, number)))


def guard_edit(source, start, end, group):
    def text(inner):
        condition = b"(%s)" % inner(start, end)
        for number, value, _, _ in group:
            switch = b"%s(%d)" % (SWITCH, number)
            condition = marked(number, b"(%s || %s)" % (switch, condition) if value == b"true"
                               else b"(!%s && %s)" % (switch, condition))
        return condition
    return Edit(start, end, 0, text)


RENDER = {"body": body_edit, "value": value_edit, "unguarded": unguarded_edit, "guard": guard_edit}
