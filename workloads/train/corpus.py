"""corpus.py - the training text, out of Debian packages.

    python corpus.py build DIR     downloads the packages with apt-get, unpacks them (nothing is installed) and writes
                                   DIR/corpus.xz and DIR/heldout.txt
    corpus.load(path)              -> list of (name, weight, text as numpy bytes)

Every source is English prose that Debian ships, in the public domain or under a free licence; README.md names them.
The held-out text is the end of "Persuasion", cut off before anything else sees it.
"""
import glob
import gzip
import html
import json
import lzma
import os
import re
import struct
import subprocess
import sys
import zlib

import numpy as np

HELDOUT_BYTES = 131072      # 16 documents of 8192
GCIDE_BYTES = 10_000_000    # a part of the dictionary: more would drown the prose

# Package -> share of the text that training draws. Prose first; a source is not repeated much more than another.
WEIGHTS = {"r-cran-janeaustenr": 0.30, "bible-kjv-text": 0.20, "jargon-text": 0.10, "debian-handbook": 0.08,
           "perl-doc": 0.17, "dict-gcide": 0.15}
TOOLS = ["bible-kjv"]       # prints the packed text of bible-kjv-text


def r_strings(path):
    """The character vectors of an R lazy-load database: blobs of big-endian length and zlib stream, each a serialised
    object, in which a string is type 9, its length and its bytes."""
    with open(path, "rb") as file:
        rest = file.read()
    vectors = []
    while len(rest) > 4:
        stream = zlib.decompressobj()
        blob = stream.decompress(rest[4:])
        rest = stream.unused_data
        at = blob.find(b"\x00\x00\x00\x10")     # STRSXP
        if at < 0:
            continue
        (count,), at = struct.unpack_from(">i", blob, at + 4), at + 8
        lines = []
        for _ in range(count):
            flags, length = struct.unpack_from(">ii", blob, at)
            if flags & 0xFF != 9:
                break
            lines.append(blob[at + 8:at + 8 + length].decode("latin-1"))
            at += 8 + length
        if len(lines) > 1000:
            vectors.append("\n".join(lines))
    return vectors


def read_austen(root):
    books = r_strings(f"{root}/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb")
    persuasion = next(book for book in books if "PERSUASION" in book[:200].upper())
    return [book for book in books if book is not persuasion] + [persuasion]    # last: its end is held out


def read_bible(root):
    program = os.path.join(os.path.dirname(root), "bible-kjv", "usr/bin/bible")
    out = subprocess.run([program, "-p", f"{root}/usr/lib", "-f", "gen1:1-rev22:21"], capture_output=True, check=True)
    return [re.sub(r"^ {0,2}\d+ ", "", out.stdout.decode("latin-1"), flags=re.M)]


def read_jargon(root):
    with gzip.open(f"{root}/usr/share/doc/jargon-text/jargon.txt.gz") as file:
        return [file.read().decode("utf-8", "replace")]


def read_handbook(root):
    chapters = []
    for path in sorted(glob.glob(f"{root}/usr/share/doc/debian-handbook/html/en-US/*.html")):
        with open(path, encoding="utf-8") as file:
            page = re.sub(r"(?s)<(script|style|head).*?</\1>", " ", file.read())
        page = html.unescape(re.sub(r"<[^>]*>", "", re.sub(r"</(p|h\d|li|div|dt|dd)>", "\n", page)))
        chapters.append(re.sub(r"\n\s*\n+", "\n\n", page))
    return chapters


def read_perl(root):
    pages = []
    for path in sorted(glob.glob(f"{root}/usr/share/perl/*/pod/*.pod")):
        with open(path, encoding="utf-8", errors="replace") as file:
            pages.append(file.read())
    return pages


def read_gcide(root):
    with gzip.open(f"{root}/usr/share/dictd/gcide.dict.dz") as file:
        text = file.read().decode("utf-8", "replace")
    text = re.sub(r"\[1913 Webster[^\]]*\]|\[(PJC|WordNet[^\]]*|Webster[^\]]*|GDE)\]", "", text)
    return [re.sub(r"\n\s*\n+", "\n\n", text)[100_000:100_000 + GCIDE_BYTES]]


READERS = {"r-cran-janeaustenr": read_austen, "bible-kjv-text": read_bible, "jargon-text": read_jargon,
           "debian-handbook": read_handbook, "perl-doc": read_perl, "dict-gcide": read_gcide}


def to_ascii(text):
    """Printable ASCII and newlines; the few typographic signs of the sources get their plain form."""
    for sign, plain in {"\u2019": "'", "\u2018": "'", "\u201c": '"', "\u201d": '"', "\u2014": "--", "\u2013": "-",
                        "\u2026": "...", "\u00a0": " ", "\t": "    ", "\r": ""}.items():
        text = text.replace(sign, plain)
    text = re.sub(r"[^\n -~]", "", text)
    return re.sub(r"\n{4,}", "\n\n\n", re.sub(r" +\n", "\n", text)).strip() + "\n"


def unpack(folder):
    os.makedirs(folder, exist_ok=True)
    for package in [*WEIGHTS, *TOOLS]:
        subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, check=True, stderr=subprocess.DEVNULL)
        archive = glob.glob(f"{folder}/{package}_*.deb")[0]
        subprocess.run(["dpkg", "-x", archive, f"{folder}/{package}"], check=True)


def build(folder):
    packages = os.path.join(folder, "packages")
    unpack(packages)
    parts, blob = [], b""
    for package, weight in WEIGHTS.items():
        text = "\n\n".join(to_ascii(part) for part in READERS[package](f"{packages}/{package}")).encode("ascii")
        if package == "r-cran-janeaustenr":
            cut = text.rindex(b"\n\n", 0, len(text) - HELDOUT_BYTES) + 2
            with open(f"{folder}/heldout.txt", "wb") as file:
                file.write(text[cut:])
            text = text[:cut]
        parts.append({"name": package, "weight": weight, "bytes": len(text)})
        blob += text
    header = json.dumps(parts).encode("ascii") + b"\n"
    with open(f"{folder}/corpus.xz", "wb") as file:
        file.write(lzma.compress(header + blob, preset=6))
    print(json.dumps(parts, indent=1))


def load(path):
    with lzma.open(path) as file:
        parts = json.loads(file.readline())
        return [(part["name"], part["weight"], np.frombuffer(file.read(part["bytes"]), np.uint8)) for part in parts]


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] != "build":
        sys.exit("usage: corpus.py build DIR")
    build(sys.argv[2])
