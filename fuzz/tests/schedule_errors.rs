//! The error messages for a text that is no schedule.

use sigstorm::schedule::{MAX_STEPS, ParseError, Schedule};

fn fail(statements: &str) -> ParseError {
    let text = format!("# sigstorm schedule 1\n{statements}");
    Schedule::parse(&text).expect_err(statements)
}

/// Statements, the words that carets are under, the message, the help.
#[rustfmt::skip]
const ERRORS: &[(&str, &str, &str, &str)] = &[
    // Unknown words.
    ("m1 g1 cal small", "cal", "`cal` is not a step", "did you mean `call`?"),
    ("scam g1", "scam", "`scam` is neither an actor nor a step", "did you mean `scan`?"),
    ("m3 syscall", "m3", "`m3` is neither an actor nor a step", "did you mean `m1`?"),
    ("m1 g5 syscall", "g5", "`g5` is not a goroutine: they are g1 to g4", ""),
    ("ext frobnicate", "frobnicate", "`frobnicate` is not a step", "ext can: resume, signal, rate, hz, pend, read, attach, detach"),
    ("m1 signal @ traceback.beginn", "traceback.beginn", "`traceback.beginn` is not a scheduling point", "did you mean `traceback.begin`?"),
    ("m1 signal @ smal#5", "smal", "`smal` is not a function", "did you mean `small`?"),
    ("call smalll*2", "smalll", "`smalll` is not a frame kind to call", "did you mean `small`? (a frame kind to call is one of: nosplit, tiny, small, medium, large, huge, deferring, leaf)"),
    ("call gopanic", "gopanic", "`gopanic` is not a frame kind to call", "a frame kind to call is one of: nosplit, tiny, small, medium, large, huge, deferring, leaf"),
    ("rate up", "up", "`up` is not `on` or `off`", "`on` or `off` is one of: off, on"),
    // The wrong actor.
    ("gc mark; call small*4 @ small#1", "call", "`call` is a machine's, not gc's: write `m1 call small*4`", ""),
    ("ext g1", "g1", "`g1` is a machine's, not ext's: write `m1 g1`", ""),
    ("m1 sweep", "sweep", "`sweep` is the collector's, not m1's: write `gc sweep`", ""),
    ("m1 drain 77", "77", "`77` is out of range: a count is one of: 1, 2, 3, 4, 5, 6, 7, 8", ""),
    ("m1 every_frame", "m1", "`every_frame` is an option, and an option has no actor", "leave `m1` out"),
    ("g1 stack 2048", "g1", "`stack` is an option, and an option has no actor", "leave `g1` out"),
    ("world every_frame", "world", "options are written without an actor", "leave `world` out"),
    ("every_frame @ scan.done", "@", "an option cannot be held anywhere", ""),
    // Numbers.
    ("ret 9", "9", "`9` is out of range: a count is one of: 1, 2, 3, 4, 5, 6, 7, 8", ""),
    ("call small*3", "3", "`3` is out of range: a number of calls is one of: 1, 2, 4, 8", ""),
    ("stack 1024", "1024", "`1024` is out of range: a stack size in bytes is one of: 2048, 4096, 8192, 16384", ""),
    ("load 1 = 0.2", "2", "`2` is out of range: a field is one of: 0, 1", ""),
    ("resume @ small#65536", "65536", "`65536` is out of range: an instruction index is 0 to 65535", ""),
    ("resume @ small#99999999999999999999999", "99999999999999999999999", "`99999999999999999999999` is out of range: an instruction index is 0 to 65535", ""),
    ("resume @ scan.done:0", "0", "`0` is out of range: a hit is 1 to 8", ""),
    ("resume @ small#1:9", "9", "`9` is out of range: a hit is 1 to 8", ""),
    ("resume @ small#1/80", "80", "`80` is out of range: a check value is 0 to 7f", ""),
    ("resume @ small#1/3g", "3g", "`3g` is not a hexadecimal number", ""),
    ("resume @ small#x", "x", "`x` is not a number", ""),
    // Something is missing, or too much.
    ("m1", "", "expected a step after `m1`, found the end of the statement", ""),
    ("m1 # call", "", "expected a step after `m1`, found the end of the statement", ""),
    ("m1 = 3", "=", "expected a step after `m1`, found `=`", ""),
    ("@ scan.done", "@", "expected an actor or a step, found `@`", ""),
    ("call", "", "expected a frame kind to call, found the end of the statement", "for example: `call huge*4`"),
    ("load 1 0.1", "0", "expected `=`, found `0`", "for example: `load 1 = 1.1`"),
    ("up 3 slit 1 = 0", "slit", "expected `slot`, found `slit`", "for example: `up 6 slot 2 = 2`"),
    ("syscall g1", "g1", "expected the end of the statement, found `g1`", "statements are separated by `;` or by a new line"),
    ("resume @", "", "expected a scheduling point, or FUNCTION#INDEX, found the end of the statement", ""),
    ("resume @ scan.done @ scan.done", "@", "expected the end of the statement, found `@`", "statements are separated by `;` or by a new line"),
    ("resume @ small", "small", "`small` is a function: say at which instruction", "for example: `@ small#0`"),
    ("resume @ small#", "", "expected an instruction index, 0 to 65535, found the end of the statement", ""),
    ("resume @ scan.done#1", "#", "`scan.done` is a scheduling point, which has no index", "put a blank before a comment"),
    ("resume @ scan.done/1", "/", "expected the end of the statement, found `/`", "statements are separated by `;` or by a new line"),
];

#[test]
fn errors_say_what_is_wrong_and_where() {
    for (statements, culprit, message, help) in ERRORS {
        let error = fail(statements);
        assert_eq!(error.message, *message, "{statements}");
        assert_eq!(error.help.as_deref().unwrap_or(""), *help, "{statements}");
        assert_eq!(error.line, 2, "{statements}");
        let at: String = statements.chars().skip(error.column - 1).collect();
        assert!(at.starts_with(culprit), "{statements}: {at}");
        let shown = error.to_string();
        let carets = shown.lines().nth(2).unwrap().matches('^').count();
        assert_eq!(carets, culprit.len().max(1), "{shown}");
    }
}

#[test]
fn an_error_is_shown_with_its_line() {
    assert_eq!(
        fail("every_frame\nm1 g1 call small; cal large # twice").to_string(),
        "line 3, column 19: `cal` is neither an actor nor a step\n \
         3 | m1 g1 call small; cal large # twice\n   \
           |                   ^^^\n\
         help: did you mean `call`?"
    );
}

#[test]
fn the_first_line_must_name_this_version() {
    let message = |text| Schedule::parse(text).unwrap_err().message;
    let missing = "the first line must be `# sigstorm schedule 1`";
    for text in ["", "m1 signal", "\n# sigstorm schedule 1", "# sigstorm schedule1"] {
        assert_eq!(message(text), missing);
    }
    assert_eq!(
        Schedule::parse("# sigstorm schedule 2\nunknown").unwrap_err().to_string(),
        "line 1, column 21: this file is version 2, this build reads version 1\n \
         1 | # sigstorm schedule 2\n   \
           |                     ^\n\
         help: the first line must be `# sigstorm schedule 1`"
    );
    assert_eq!(message("# sigstorm schedule one"), "`one` is no version");
    assert_eq!(message("# sigstorm schedule "), "the first line names no version");
}

#[test]
fn a_schedule_can_be_too_long() {
    let most = "m1 signal\n".repeat(MAX_STEPS);
    let text = format!("# sigstorm schedule 1\n{most}");
    assert_eq!(Schedule::parse(&text).unwrap().steps.len(), MAX_STEPS);
    let error = fail(&format!("{most}gc g;mark"));
    assert_eq!(error.message, "`g` is not a step");
    let error = fail(&format!("{most}gc mark"));
    assert_eq!((error.line, error.column), (MAX_STEPS + 2, 4));
    assert_eq!(error.message, "this is step 4097: 4096 are the most");
}
