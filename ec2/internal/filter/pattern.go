package filter

import (
	"strings"
	"unicode/utf8"
)

// Pattern is a filter value: * stands for any text, ? for any one character, and a backslash takes the meaning from the
// character after it. A backslash at the end is itself.
type Pattern struct {
	literal string  // used when there is no wildcard
	tokens  []token // nil when there is no wildcard
}

// token is one character of a pattern, or a wildcard.
type token struct {
	kind kind
	r    rune
}

type kind byte

const (
	exact kind = iota
	one        // ?
	many       // *
)

// NewPattern reads a filter value. Every text is a pattern.
func NewPattern(text string) Pattern {
	var tokens []token
	wild := false
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRuneInString(text[i:])
		i += size
		switch {
		case r == '\\' && i < len(text):
			r, size = utf8.DecodeRuneInString(text[i:])
			i += size
			tokens = append(tokens, token{exact, r})
		case r == '?':
			wild, tokens = true, append(tokens, token{kind: one})
		case r == '*':
			wild, tokens = true, append(tokens, token{kind: many})
		default:
			tokens = append(tokens, token{exact, r})
		}
	}
	if wild {
		return Pattern{tokens: tokens}
	}
	var literal strings.Builder
	for _, t := range tokens {
		literal.WriteRune(t.r)
	}
	return Pattern{literal: literal.String()}
}

// Match compares the whole value. On a mismatch it goes back to the last * only, and lets that take one character more:
// an earlier * need not be revisited, since the last one can take whatever the earlier would have.
func (p Pattern) Match(value string) bool {
	if p.tokens == nil {
		return p.literal == value
	}
	at, star, resume := 0, -1, 0 // position in tokens, after the last *, and in value where that * ends
	for i := 0; i < len(value); {
		r, size := utf8.DecodeRuneInString(value[i:])
		switch {
		case at < len(p.tokens) && p.tokens[at].kind == many:
			at++
			star, resume = at, i
		case at < len(p.tokens) && p.tokens[at].accepts(r):
			at++
			i += size
		case star >= 0:
			_, skipped := utf8.DecodeRuneInString(value[resume:])
			resume += skipped
			at, i = star, resume
		default:
			return false
		}
	}
	for at < len(p.tokens) && p.tokens[at].kind == many {
		at++
	}
	return at == len(p.tokens)
}

func (t token) accepts(r rune) bool { return t.kind == one || (t.kind == exact && t.r == r) }

// Exact returns the texts that filter values stand for, unless one of them has a wildcard: then ok is false.
func Exact(values []string) (texts []string, ok bool) {
	for _, value := range values {
		p := NewPattern(value)
		if p.tokens != nil {
			return nil, false
		}
		texts = append(texts, p.literal)
	}
	return texts, true
}
