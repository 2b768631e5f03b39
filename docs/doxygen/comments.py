#!/usr/bin/env python3
"""Doxygen's input filter: reads a header whose documentation is plain // comments, prints it with Doxygen's own.

usage: comments.py HEADER | GUIDE.md

  - The comment at the top becomes the file's documentation.
  - A comment right above a declaration becomes its documentation; one that ends before an empty line is a heading, and
    stays as it is, as do all comments inside of functions.
  - A comment behind a field or an enumerator becomes its documentation, with the lines below that go on with it.
  - A class named as its file needs none: the file's comment is about it. What is `= default` needs none, either.
  - In a comment, "Threads   any" is an entry of a list; what is indented below an empty line is code.

Of a guide, the links to files that have no page become plain text.

Lines stay where they are, so that Doxygen's warnings name the right ones.
"""
import os
import re
import sys

SCOPE = re.compile(r"(inline\s+)?(namespace|class|struct|union|enum)\b|extern\s*$")
LABEL = re.compile(r"([A-Z][A-Za-z0-9]*)  +(?=\S)")


class reader:
    """Follows the braces of C++, to know what stands inside of a function."""

    def __init__(self):
        self.statement, self.scopes, self.parentheses, self.in_comment = "", [], 0, False

    def is_outside(self):
        return all(self.scopes) and self.parentheses == 0 and not self.in_comment

    def read(self, line):
        """The column of the // comment, or the line's length."""
        if line.lstrip().startswith("#"):
            return len(line)
        at = 0
        while at < len(line):
            if self.in_comment:
                end = line.find("*/", at)
                if end < 0:
                    return len(line)
                at, self.in_comment = end + 2, False
                continue
            if line.startswith("//", at):
                return at
            if line.startswith("/*", at):
                at, self.in_comment = at + 2, True
                continue
            c = line[at]
            literal = re.compile(r'"(\\.|[^"\\])*"|\'(\\.|[^\'\\])\'|\'\\x?[0-9a-f]+\'').match(line, at)
            if literal and not (c == "'" and at > 0 and line[at - 1].isalnum()):
                self.statement += "''"
                at = literal.end()
                continue
            at += 1
            if c == "{":
                self.scopes.append(self.opens_scope())
                self.statement = ""
            elif c == "}":
                if self.scopes:
                    self.scopes.pop()
                self.statement = ""
            elif c == ";":
                self.statement = ""
            else:
                self.parentheses += (c == "(") - (c == ")")
                self.statement += c
        self.statement += " "
        return len(line)

    def opens_scope(self):
        text = re.sub(r"\[\[.*?\]\]", " ", self.statement).strip()
        text = re.sub(r"^(?:(?:public|protected|private)\s*:\s*)+", "", text)
        while text.startswith("template"):
            depth = 0
            for at, c in enumerate(text):
                depth += (c == "<") - (c == ">")
                if c == ">" and depth == 0:
                    text = text[at + 1:].lstrip()
                    break
            else:
                return False
        return bool(SCOPE.match(text))


def escaped(text):
    """What Doxygen and Markdown would take for commands, outside of `code` and of what is quoted."""
    parts = re.split(r"(`[^`]*`|\"[^\"]*\")", text)
    return "".join(p if p[:1] in ("`", '"') else re.sub(r"([\\@<>&#$|]|%(?=[A-Za-z_]))", r"\\\1", p) for p in parts)


def documented(texts):
    """The lines of one comment, without their slashes, in Doxygen's Markdown."""
    code, after_empty = False, True
    for text in texts:
        indent, text = len(text) - len(text.lstrip()), text.strip()
        if not text:
            after_empty = True
            yield ""
            continue
        code = indent >= 3 and (code or after_empty)
        after_empty = False
        label = LABEL.match(text)
        if code:
            yield " " * (2 + indent) + text
        elif re.match(r"\d+\. ", text):
            yield " " + escaped(text)
        elif label:
            yield f" - **{label.group(1)}** " + escaped(text[label.end():])
        else:
            yield " " * (4 if indent > 1 else 1) + escaped(text)


def concept(path, lines):
    """The line where the class begins that has the file's name, if there is no comment above."""
    name = re.escape(os.path.splitext(os.path.basename(path))[0])
    for at, line in enumerate(lines):
        if re.match(rf"(class|struct) {name}\b[^;]*$", line):
            first = at - lines[at - 1].startswith("template")
            return -1 if lines[first - 1].startswith("//") else first
    return -1


def filtered(path, lines):
    out, code, at, trailing = [], reader(), 0, -1
    has_comment = concept(path, lines) if lines[0].startswith("//") else -1
    while at < len(lines):
        start = at
        while at < len(lines) and lines[at].lstrip().startswith("//"):
            at += 1
        if at == start:
            line = lines[at]
            outside = code.is_outside()
            column = code.read(line)
            before, text = line[:column].rstrip(), line[column + 2:].strip()
            trailing = -1
            if text and outside and not before.lstrip().startswith("}") and before[-1:] in ";,":
                trailing = column
                line = f"{before}  ///< {escaped(text)}"
            elif text and outside and code.is_outside() and re.match(r"\s*\w+( = [^;{}()]*)?$", before):
                trailing = column  # the last enumerator, without a comma
                line = f"{before}  ///< {escaped(text)}"
            elif column < len(line) and not text:
                line = before
            elif outside and before.endswith("= default;") and not out[-1].lstrip().startswith("//"):
                line += "  ///< As usual."
            if at == has_comment:
                line = f"/** \\copydoc {path} */ {line}"
            out.append(line)
            at += 1
            continue
        block = lines[start:at]
        while block and block[0].index("//") == trailing:
            out.append(" " * trailing + "///< " + escaped(block.pop(0).strip()[2:].strip()))
        trailing = -1
        if not block:
            continue
        follows = lines[at].strip() if at < len(lines) else ""
        texts = [each.strip()[2:] for each in block]
        margin = block[0][:block[0].index("//")]
        if start == 0:
            new = list(documented(texts))
            new[0] = f" \\file {path}" + new[0]
            out += [margin + "///" + each for each in new]
        elif follows and not follows.startswith(("}", "#", "public:", "private:", "protected:")) and code.is_outside():
            out += [margin + "///" + each for each in documented(texts)]
        else:
            out += block
    return out


def main():
    path = sys.argv[1]
    with open(path, encoding="utf-8") as file:
        lines = file.read().split("\n")
    sys.stdout.reconfigure(encoding="utf-8")
    if path.endswith(".md"):
        lines = [re.sub(r"\[([^]]*)\]\((?!https?:)[^)]*\)", r"\1", line) for line in lines]
        print("\n".join(lines), end="")
        return
    print("\n".join(filtered(os.path.relpath(path), lines)), end="")


if __name__ == "__main__":
    main()
