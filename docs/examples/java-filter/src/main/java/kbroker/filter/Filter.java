package kbroker.filter;

import java.io.ByteArrayOutputStream;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.NavigableSet;
import java.util.Set;
import java.util.TreeSet;
import java.util.function.Predicate;
import org.apache.kafka.common.header.Header;

/**
 * A condition on a record's key, headers and tags, in the language of docs/filtering.md. Never changes.
 *
 * <p>A record costs one pass over its headers and, for each test, a search among sorted values: neither a record nor an
 * expression can make the other slow. Values are compared as bytes.
 */
public final class Filter {
    public static final String TAGS_HEADER = "kbroker-tags";
    static final int LENGTH_MAX = 16 * 1024; // characters
    static final int DEPTH_MAX = 32;
    static final int TESTS_MAX = 64;

    private final Predicate<Found> test;
    private final Set<String> names;

    private Filter(Predicate<Found> test, Set<String> names) {
        this.test = test;
        this.names = names;
    }

    /** The filter that {@code text} says. */
    public static Filter parse(String text) {
        Parser parser = new Parser(text);
        Predicate<Found> test = parser.whole();
        return new Filter(test, parser.names);
    }

    /** Whether a record of this key, which may be null, and these headers matches. */
    public boolean matches(byte[] key, Iterable<? extends Header> headers) {
        Found found = new Found(key);
        for (Header header : headers) {
            if (names.contains(header.key())) {
                NavigableSet<ByteBuffer> values = found.headers.computeIfAbsent(header.key(), name -> new TreeSet<>());
                if (header.value() != null) {
                    values.add(ByteBuffer.wrap(header.value()));
                }
            }
        }
        return test.test(found);
    }

    /** What a record has. An operand without an entry is not there; one with an empty set has no values. */
    private static final class Found {
        final NavigableSet<ByteBuffer> key;
        final Map<String, NavigableSet<ByteBuffer>> headers = new HashMap<>();
        private NavigableSet<ByteBuffer> tags;

        Found(byte[] key) {
            this.key = key == null ? null : new TreeSet<>(List.of(ByteBuffer.wrap(key)));
        }

        /** Split at commas, without blanks around them; null if there are none. */
        NavigableSet<ByteBuffer> tags() {
            if (tags == null) {
                tags = new TreeSet<>();
                for (ByteBuffer list : headers.getOrDefault(TAGS_HEADER, new TreeSet<>())) {
                    split(list.array());
                }
            }
            return tags.isEmpty() ? null : tags;
        }

        private void split(byte[] list) {
            int start = 0;
            for (int end = 0; end <= list.length; end++) {
                if (end == list.length || list[end] == ',') {
                    byte[] tag = trimmed(list, start, end);
                    if (tag.length > 0) {
                        tags.add(ByteBuffer.wrap(tag));
                    }
                    start = end + 1;
                }
            }
        }
    }

    private static byte[] trimmed(byte[] bytes, int start, int end) {
        while (start < end && isBlank(bytes[start])) {
            start++;
        }
        while (start < end && isBlank(bytes[end - 1])) {
            end--;
        }
        return Arrays.copyOfRange(bytes, start, end);
    }

    private static boolean isBlank(byte b) {
        return b == ' ' || b == '\t';
    }

    /** How the values of an operand are had: null, if it is not there. */
    private interface Operand {
        NavigableSet<ByteBuffer> values(Found found);
    }

    /** Begins with: of all values from {@code prefix} on, the first one does if any does. */
    private static boolean beginsOne(NavigableSet<ByteBuffer> values, ByteBuffer prefix) {
        ByteBuffer first = values.ceiling(prefix);
        return first != null
                && first.remaining() >= prefix.remaining()
                && first.duplicate().limit(prefix.remaining()).equals(prefix);
    }

    private static boolean hasOne(NavigableSet<ByteBuffer> values, Set<ByteBuffer> wanted) {
        for (ByteBuffer each : wanted) {
            if (values.contains(each)) {
                return true;
            }
        }
        return false;
    }

    /** Reads from left to right, one token ahead; makes the test as it goes. */
    private static final class Parser {
        private static final Set<String> WORDS =
                Set.of("and", "or", "not", "in", "prefix", "has", "exists", "key", "tags", "header");
        private static final String NAME = "a name";
        private static final String STRING = "a string in quotes";
        private static final String END = "the end";
        private static final String OPERAND = "key, tags, the name of a header, not or (";

        final Set<String> names = new HashSet<>();
        private final int[] text; // code points
        private int depth;
        private int tests;

        // the token: a word of the language in lower case, NAME, STRING, END, or a sign
        private String kind;
        private int start;
        private int end;
        private byte[] value;

        Parser(String text) {
            this.text = text.codePoints().toArray();
        }

        Predicate<Found> whole() {
            if (text.length > LENGTH_MAX) {
                throw new FilterSyntaxException(LENGTH_MAX + 1, "at most " + LENGTH_MAX + " characters", "" + text.length);
            }
            advance();
            Predicate<Found> test = expression();
            if (!kind.equals(END)) {
                throw wrong("and, or or the end");
            }
            return test;
        }

        private Predicate<Found> expression() {
            Predicate<Found> test = conjunction();
            while (kind.equals("or")) {
                advance();
                test = test.or(conjunction());
            }
            return test;
        }

        private Predicate<Found> conjunction() {
            Predicate<Found> test = factor();
            while (kind.equals("and")) {
                advance();
                test = test.and(factor());
            }
            return test;
        }

        private Predicate<Found> factor() {
            if (!kind.equals("not") && !kind.equals("(")) {
                return test();
            }
            if (depth == DEPTH_MAX) {
                throw wrong("at most " + DEPTH_MAX + " parentheses and nots within each other");
            }
            depth++;
            boolean negated = kind.equals("not");
            advance();
            Predicate<Found> part = negated ? factor().negate() : expression();
            if (!negated) {
                take(")", "and, or or )");
            }
            depth--;
            return part;
        }

        private Predicate<Found> test() {
            if (tests == TESTS_MAX) {
                throw wrong("at most " + TESTS_MAX + " tests");
            }
            tests++;
            boolean ofTags = kind.equals("tags");
            Operand operand = operand();
            String operator = kind;
            switch (operator) {
                case "exists":
                    advance();
                    return found -> operand.values(found) != null;
                case "prefix":
                    advance();
                    ByteBuffer prefix = ByteBuffer.wrap(string());
                    return found -> operand.values(found) != null && beginsOne(operand.values(found), prefix);
                case "=":
                case "has":
                case "!=":
                    advance();
                    return oneOf(operand, Set.of(whole(ofTags)), operator.equals("!="));
                case "in":
                case "not":
                    advance();
                    if (operator.equals("not")) {
                        take("in", "in");
                    }
                    return oneOf(operand, list(ofTags), operator.equals("not"));
                default:
                    throw wrong("=, !=, has, in, not in, prefix or exists");
            }
        }

        private static Predicate<Found> oneOf(Operand operand, Set<ByteBuffer> wanted, boolean none) {
            return found -> {
                NavigableSet<ByteBuffer> values = operand.values(found);
                return values != null && !values.isEmpty() && hasOne(values, wanted) != none;
            };
        }

        private Operand operand() {
            switch (kind) {
                case "key":
                    advance();
                    return found -> found.key;
                case "tags":
                    advance();
                    names.add(TAGS_HEADER);
                    return Found::tags;
                case NAME:
                    String word = shown(start, end);
                    advance();
                    return header(word);
                case "header":
                    advance();
                    take("(", "( as in header(\"name\")");
                    int at = start;
                    byte[] name = string();
                    take(")", ")");
                    try {
                        return header(StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(name)).toString());
                    } catch (CharacterCodingException error) {
                        throw new FilterSyntaxException(at + 1, "the name of a header, in UTF-8", "other bytes");
                    }
                default:
                    throw wrong(OPERAND);
            }
        }

        private Operand header(String name) {
            names.add(name);
            return found -> found.headers.get(name);
        }

        private Set<ByteBuffer> list(boolean ofTags) {
            take("(", "( and strings in quotes");
            Set<ByteBuffer> values = new HashSet<>(Set.of(whole(ofTags)));
            while (kind.equals(",")) {
                advance();
                values.add(whole(ofTags));
            }
            take(")", ", or )");
            return values;
        }

        /** A whole value. A tag that no record can have is told at once, for it would never match. */
        private ByteBuffer whole(boolean ofTags) {
            int at = start;
            byte[] bytes = string();
            if (ofTags && (bytes.length == 0 || trimmed(bytes, 0, bytes.length).length < bytes.length || hasComma(bytes))) {
                throw new FilterSyntaxException(
                        at + 1, "a tag (not empty, without commas, without blanks around it)", shown(at, end));
            }
            return ByteBuffer.wrap(bytes);
        }

        private static boolean hasComma(byte[] bytes) {
            for (byte each : bytes) {
                if (each == ',') {
                    return true;
                }
            }
            return false;
        }

        private byte[] string() {
            byte[] bytes = value;
            take(STRING, STRING);
            return bytes;
        }

        private void take(String wanted, String expected) {
            if (!kind.equals(wanted)) {
                throw wrong(expected);
            }
            advance();
        }

        private void advance() {
            start = end;
            while (start < text.length && " \t\r\n".indexOf(text[start]) >= 0) {
                start++;
            }
            end = start;
            if (start == text.length) {
                kind = END;
            } else if (isLetter(text[start])) {
                while (end < text.length && (isLetter(text[end]) || "0123456789.-".indexOf(text[end]) >= 0)) {
                    end++;
                }
                String word = shown(start, end).toLowerCase(Locale.ROOT);
                kind = WORDS.contains(word) ? word : NAME;
            } else if (text[start] == '"' || text[start] == '\'') {
                kind = STRING;
                readString();
            } else {
                end = start + 1;
                if (text[start] == '!' && end < text.length && text[end] == '=') {
                    end++;
                }
                kind = shown(start, end);
            }
        }

        private static boolean isLetter(int c) {
            return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_';
        }

        private void readString() {
            ByteArrayOutputStream bytes = new ByteArrayOutputStream();
            for (end = start + 1; end < text.length && text[end] != text[start]; end++) {
                if (text[end] == '\\') {
                    readEscape(bytes);
                } else if (text[end] >= Character.MIN_SURROGATE && text[end] <= Character.MAX_SURROGATE) {
                    throw new FilterSyntaxException(end + 1, "a character", "half of one (a surrogate)");
                } else {
                    bytes.writeBytes(shown(end, end + 1).getBytes(StandardCharsets.UTF_8));
                }
            }
            if (end >= text.length) {
                throw new FilterSyntaxException(start + 1, "a string with its closing quote", shown(start, text.length));
            }
            end++;
            value = bytes.toByteArray();
        }

        /** Leaves {@code end} at the escape's last character. */
        private void readEscape(ByteArrayOutputStream bytes) {
            int escaped = end + 1 < text.length ? text[end + 1] : -1;
            int high = escaped == 'x' && end + 3 < text.length ? digit(text[end + 2]) : -1;
            int low = high >= 0 ? digit(text[end + 3]) : -1;
            if (escaped == '\\' || escaped == '"' || escaped == '\'') {
                bytes.write(escaped);
                end++;
            } else if (low >= 0) {
                bytes.write(high * 16 + low);
                end += 3;
            } else {
                String found = shown(end, Math.min(end + 4, text.length));
                throw new FilterSyntaxException(end + 1, "one of the escapes \\\\ \\\" \\' \\xHH", found);
            }
        }

        private static int digit(int c) {
            return c < 128 ? Character.digit(c, 16) : -1;
        }

        private FilterSyntaxException wrong(String expected) {
            return new FilterSyntaxException(start + 1, expected, kind.equals(END) ? END : shown(start, end));
        }

        private String shown(int from, int to) {
            return new String(text, from, to - from);
        }
    }
}
