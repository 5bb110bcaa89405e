//! A place in a text, and how to go on from there.

/// Where the parser is.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'t> {
    /// The whole text.
    pub(super) text: &'t str,
    /// The place: a byte offset, between characters.
    pub(super) at: usize,
}

/// A word of the text and where it begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Word<'t> {
    /// The word; it is not empty.
    pub(super) text: &'t str,
    /// Its byte offset.
    pub(super) start: usize,
}

/// Returns whether it is inside a word.
pub(super) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

impl<'t> Cursor<'t> {
    /// The rest of the statement.
    pub(super) fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    /// The next character.
    pub(super) fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// Goes past the characters that belong, and gives them.
    fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> &'t str {
        let rest = self.rest();
        let len = rest.find(|c| !belongs(c)).unwrap_or(rest.len());
        self.at += len;
        &rest[..len]
    }

    /// Goes past blank space, but not to another line.
    pub(super) fn skip_blank(&mut self) {
        self.take_while(|c| c.is_whitespace() && c != '\n');
    }

    /// Goes to the end of the line.
    pub(super) fn skip_line(&mut self) {
        self.take_while(|c| c != '\n');
    }

    /// Goes past this character, if it is the next.
    pub(super) fn eat(&mut self, c: char) -> bool {
        let next = self.peek() == Some(c);
        if next {
            self.at += c.len_utf8();
        }
        next
    }

    /// Takes a word, if there is one, of characters that belong.
    pub(super) fn word(&mut self, belongs: impl Fn(char) -> bool) -> Option<Word<'t>> {
        let start = self.at;
        let text = self.take_while(belongs);
        (!text.is_empty()).then_some(Word { text, start })
    }

    /// Returns whether the statement ends here.
    pub(super) fn at_end(&self) -> bool {
        matches!(self.peek(), None | Some('\n' | ';' | '#'))
    }

    /// The token here, for messages: a word, a sign or the end, and its length.
    pub(super) fn found(&self) -> (String, usize) {
        let mut ahead = self.clone();
        match ahead.peek() {
            None | Some('\n' | ';' | '#') => ("the end of the statement".into(), 0),
            Some(c) => match ahead.word(is_word) {
                Some(word) => (super::error::quote(word.text), word.text.len()),
                None => (super::error::quote(c.encode_utf8(&mut [0; 4])), c.len_utf8()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_tells_words_signs_and_ends() {
        let mut c = Cursor { text: "  ab_1 =\u{a0}é; x\n# y", at: 0 };
        c.skip_blank();
        assert_eq!(c.found(), ("`ab_1`".into(), 4));
        let word = c.word(is_word).unwrap();
        assert_eq!((word.text, word.start), ("ab_1", 2));
        c.skip_blank();
        assert_eq!(c.found(), ("`=`".into(), 1));
        assert!(c.word(is_word).is_none() && !c.eat(';') && c.eat('='));
        c.skip_blank();
        assert_eq!(c.word(is_word).unwrap().text, "é");
        assert!(c.at_end() && c.eat(';'));
        c.skip_line();
        assert!(c.at_end() && c.eat('\n') && c.at_end());
        c.skip_line();
        assert_eq!((c.peek(), c.found().1), (None, 0));
    }
}
