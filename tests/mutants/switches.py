"""One build with all mutants: each is a switch in a copy of the source.

`cargo mutants --list` names the mutants. Each of them becomes `if crate::mutant(N) { mutant } else
{ original }`, so that the environment variable `MUTANT=N` turns it on in every process that inherits it,
and nothing has to be compiled again. Mutants that do not compile are removed, by the places of the
compiler's errors: comments `/*<N*/ … /*>N*/` say which text belongs to which mutant.
"""

import json
import re
import subprocess

import tree_sitter
import tree_sitter_rust

PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_rust.language()))
MARK = re.compile(rb"/\*([<>])([\d,]+)\*/")

# Appended to lib.rs.
SWITCH = """
/// Whether mutant `n` is on; notes in the file `MUTANT_TRACE` that it was asked for.
#[doc(hidden)]
pub fn mutant(n: usize) -> bool {
    use std::{io::Write as _, sync::{OnceLock, atomic::{AtomicBool, Ordering}}};
    static ON: OnceLock<(usize, Option<std::ffi::OsString>)> = OnceLock::new();
    static ASKED: [AtomicBool; 4096] = [const { AtomicBool::new(false) }; 4096];
    let (on, trace) = ON.get_or_init(|| {
        let on = std::env::var("MUTANT").ok().and_then(|n| n.parse().ok());
        (on.unwrap_or(0), std::env::var_os("MUTANT_TRACE"))
    });
    if let Some(trace) = trace
        && !ASKED[n].swap(true, Ordering::Relaxed)
        && let Ok(mut file) = std::fs::File::options().create(true).append(true).open(trace)
    {
        drop(file.write_all(format!("{n}\\n").as_bytes()));
    }
    n == *on
}
"""


def mark(numbers, text):
    name = b",".join(b"%d" % number for number in numbers)
    return b"/*<%s*/%s/*>%s*/" % (name, text, name)


def call(number):
    return b"crate::mutant(%d)" % number


def ancestor(node, *kinds):
    while node is not None and node.type not in kinds:
        node = node.parent
    return node


class File:
    """A source file and the mutants in it, by number."""

    def __init__(self, text, mutants):
        self.text = text
        self.lines = text.split(b"\n")
        self.tree = PARSER.parse(text)
        self.at = {}  # node id: what is switched there, as (number, kind, text of the mutant)
        for number, mutant in mutants.items():
            self.place(number, mutant)

    def offset(self, place):
        before = sum(len(line) + 1 for line in self.lines[: place["line"] - 1])
        line = self.lines[place["line"] - 1].decode()
        return before + len(line[: place["column"] - 1].encode())

    def place(self, number, mutant):
        start, end = self.offset(mutant["span"]["start"]), self.offset(mutant["span"]["end"])
        node = self.tree.root_node.descendant_for_byte_range(start, end)
        new, genre = mutant["replacement"].encode(), mutant["genre"]
        if genre == "FnValue":
            function = ancestor(node, "function_item")
            target = function and function.child_by_field_name("body")
        elif genre in ("BinaryOperator", "UnaryOperator"):
            kinds = ("binary_expression", "compound_assignment_expr", "unary_expression")
            target = ancestor(node, *kinds)
            if target and not any((it.start_byte, it.end_byte) == (start, end) for it in target.children):
                target = None
            elif target:
                new = self.text[target.start_byte : start] + new + self.text[end : target.end_byte]
        elif genre in ("MatchArm", "MatchArmGuard"):
            arm = ancestor(node, "match_arm")
            target = arm and arm.child_by_field_name("pattern")
        elif genre == "StructField":
            target = ancestor(node, "struct_expression")
            if target:
                rest = self.text[end : target.end_byte].lstrip().removeprefix(b",")
                new = self.text[target.start_byte : start] + rest
        else:
            target = None
        if target:
            self.at.setdefault(target.id, []).append((number, genre, new))

    def render(self, node=None):
        node = node or self.tree.root_node
        switches = self.at.get(node.id, [])
        if node.type == "match_expression":
            arms = node.child_by_field_name("body").children
            patterns = [arm.child_by_field_name("pattern") for arm in arms if arm.type == "match_arm"]
            numbers = [it[0] for pattern in patterns for it in self.at.get(pattern.id, [])]
            return mark(numbers, self.plain(node)) if numbers else self.plain(node)
        if not switches:
            return self.plain(node)
        numbers = [number for number, _, _ in switches]
        if node.type == "match_pattern":
            return mark(numbers, self.pattern(node, switches))
        if switches[0][1] == "FnValue":
            returns = (b"if %s { return %s; }" % (call(number), new) for number, _, new in switches)
            marked = b" ".join(mark([number], text) for number, text in zip(numbers, returns))
            return b"{ " + marked + b" " + self.plain(node)[1:]
        branches = (b"%s { %s }" % (call(number), new) for number, _, new in switches)
        marked = b" else if ".join(mark([number], text) for number, text in zip(numbers, branches))
        return mark(numbers, b"(if %s else { %s })" % (marked, self.plain(node)))

    def pattern(self, node, switches):
        condition = node.child_by_field_name("condition")
        pattern = self.text[node.start_byte : (condition or node).end_byte]
        guard = None
        if condition:
            pattern = self.text[node.start_byte : condition.start_byte].rstrip()[: -len(b"if")]
            guard = self.render(condition)
            if not condition.type.startswith("let"):
                for number, genre, new in switches:
                    if genre == "MatchArmGuard":
                        guard = b"(if %s { %s } else { %s })" % (call(number), new, guard)
                guard = b"(%s)" % guard
        off = [b"!" + call(number) for number, genre, _ in switches if genre == "MatchArm"]
        return pattern + b" if " + b" && ".join(off + ([guard] if guard else []))

    def plain(self, node):
        text, at = b"", node.start_byte
        for child in node.children:
            text += self.text[at : child.start_byte] + self.render(child)
            at = child.end_byte
        return text + self.text[at : node.end_byte]


def blame(text, start, end):
    """The mutants of the innermost marked text that contains the place."""
    open_marks, inside = [], []
    for found in MARK.finditer(text):
        if found[1] == b"<":
            open_marks.append((found.start(), found[2]))
        else:
            begin, numbers = open_marks.pop()
            if begin <= start and end <= found.end():
                inside.append((found.end() - begin, numbers))
    return [int(it) for it in min(inside)[1].split(b",")] if inside else []


def update(path, text):
    """Writes a file if it is not the same; cargo goes by the time of files."""
    if not path.exists() or path.read_bytes() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)


def write(tree, source, mutants):
    """Writes the source with these switches; gives the text of each file."""
    texts = {}
    for name in sorted({mutant["file"] for mutant in mutants.values()} | {"src/lib.rs"}):
        of_file = {number: it for number, it in mutants.items() if it["file"] == name}
        text = (source / name).read_bytes()
        texts[name] = File(text, of_file).render()
        if name == "src/lib.rs":
            texts[name] += SWITCH.encode()
        update(tree / name, texts[name])
    return texts


def compilable(tree, source, mutants, cargo):
    """Writes the source with as many of the mutants as compile, and gives these."""
    mutants = dict(mutants)
    while True:
        texts = write(tree, source, mutants)
        placed = {int(it) for text in texts.values() for _, to in MARK.findall(text) for it in to.split(b",")}
        mutants = {number: it for number, it in mutants.items() if number in placed}
        done = subprocess.run(
            [*cargo, "check", "--locked", "--lib", "--message-format=json"], cwd=tree, capture_output=True
        )
        if done.returncode == 0:
            return mutants
        bad, unclear = set(), []
        for line in done.stdout.splitlines():
            message = json.loads(line).get("message") or {}
            if message.get("level") != "error" or not message["spans"]:
                continue
            spans = sorted(message["spans"], key=lambda span: not span["is_primary"])
            places = ((span["file_name"], span["byte_start"], span["byte_end"]) for span in spans)
            found = (blame(texts[name], start, end) for name, start, end in places if name in texts)
            numbers = next((numbers for numbers in found if numbers), None)
            bad.update(numbers or [])
            if not numbers:
                unclear.append(message["rendered"])
        if not bad:
            raise SystemExit("\n".join(unclear) or done.stderr.decode())
        print(f"{len(bad)} mutants do not compile", flush=True)
        mutants = {number: it for number, it in mutants.items() if number not in bad}
