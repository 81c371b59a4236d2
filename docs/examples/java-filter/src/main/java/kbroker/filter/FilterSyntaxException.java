package kbroker.filter;

/** A text that is no expression: at {@code position} (characters, from 1) stands something else than was expected. */
public final class FilterSyntaxException extends IllegalArgumentException {
    private static final long serialVersionUID = 1;

    public final int position;

    FilterSyntaxException(int position, String expected, String found) {
        super("filter, position " + position + ": expected " + expected + ", found " + found);
        this.position = position;
    }
}
