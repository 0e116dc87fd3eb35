//! Keeps words out of the documentation, the comments and the messages that a stranger had to decode, so that they do
//! not return.

use std::fs;
use std::path::{Path, PathBuf};

/// Words and phrases that are gone, in small letters.
const GONE: &[&str] = &[
    "anybody",
    "are told",
    "be told",
    "bring round",
    "brought round",
    "comes round",
    "everybody",
    "for ever",
    "for want of",
    "from then on",
    "has yet to",
    "have yet to",
    "hear of",
    "heard of",
    "hears",
    "hears of",
    "in good order",
    "in silence",
    "is had",
    "is told",
    "knows of",
    "last word",
    "mended",
    "mends",
    "nobody",
    "so many",
    "somebody",
    "tells of",
    "thrown out",
    "turned away",
    "was told",
    "were told",
    "what became of",
    "what is left of it",
    "who comes",
    "who returns",
    "who takes",
    "who wants",
    "whoever",
    "without a word",
];

/// The phrases of [`GONE`] in a text, as whole words.
fn gone_phrases(text: &str) -> impl Iterator<Item = &'static str> + use<> {
    let text = text.to_lowercase();
    let is_inside = |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    let stands_in = move |phrase: &&&'static str| {
        text.match_indices(**phrase).any(|(at, found)| {
            !is_inside(text[..at].chars().next_back()) && !is_inside(text[at + found.len()..].chars().next())
        })
    };
    GONE.iter().filter(move |phrase| stands_in(phrase)).copied()
}

/// The part of a line of Rust that is a comment.
fn comment(line: &str) -> &str {
    line.find("// ").or_else(|| line.find("//!")).or_else(|| line.find("///")).map_or("", |at| &line[at..])
}

/// The string literals that begin in a line of Rust, without their further lines.
fn strings(line: &str) -> String {
    let code = &line[..line.len() - comment(line).len()];
    code.replace("\\\"", " ").split('"').skip(1).step_by(2).collect::<Vec<_>>().join(" ")
}

/// True for sources whose strings are not checked: tests quote what the others say.
fn has_free_strings(path: &Path) -> bool {
    path.starts_with(root().join("tests"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| if path.is_dir() { files_below(&path, extension) } else { vec![path] });
    files.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

/// What is quoted from the program, or is code, is not prose.
fn prose(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join(" ")
}

#[test]
fn documentation_and_comments_need_no_decoding() {
    let root = root();
    let at_the_root = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"].map(|name| root.join(name));
    let documents = at_the_root.into_iter().chain(files_below(&root.join("docs"), "md"));
    // This file lists the phrases, so it is left out.
    let tests = files_below(&root.join("tests"), "rs").into_iter().filter(|path| !path.ends_with(file!()));
    let sources = files_below(&root.join("src"), "rs").into_iter().chain(tests);
    let mut found = Vec::new();
    for path in documents.chain(sources) {
        let is_source = path.extension().is_some_and(|extension| extension == "rs");
        let mut is_code = false;
        for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
            is_code ^= !is_source && line.trim_start().starts_with("```");
            let text = if is_source { comment(line) } else { line };
            let mut text = if is_code { String::new() } else { prose(text) };
            if is_source && !has_free_strings(&path) {
                text = text + " " + &strings(line);
            }
            found.extend(gone_phrases(&text).map(|phrase| format!("{}:{}: {phrase}", path.display(), number + 1)));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_phrase_that_is_gone_is_found_as_whole_words_alone() {
    let check = |text: &str, expected: &[&str]| assert_eq!(gone_phrases(text).collect::<Vec<_>>(), expected, "{text}");
    check("Nobody waits for the slow.", &["nobody"]);
    check("A subscriber is told of a gap; so many are.", &["is told", "so many"]);
    check("A nobody_waits is a name.", &[]);
    check("It amends the forever young.", &[]);
    assert_eq!(comment("let a = b; // nobody"), "// nobody");
    assert_eq!(comment("let url = \"http://nobody\";"), "");
    assert_eq!(strings("f(\"a \\\" b\", c); // \"d\""), "a   b");
    assert_eq!(prose("see `nobody` here").trim(), "see   here".trim());
}
