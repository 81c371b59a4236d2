package kbroker.filter;

import static org.junit.jupiter.api.Assertions.assertDoesNotThrow;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.File;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HexFormat;
import java.util.List;
import java.util.stream.Stream;
import java.util.stream.StreamSupport;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestFactory;

/** The table of cases that every implementation of the language is held against. */
class FilterTest {
    private static JsonNode cases() throws IOException {
        return new ObjectMapper().readTree(new File(System.getProperty("cases")));
    }

    private static Stream<JsonNode> each(JsonNode list) {
        assertTrue(list.size() > 0);
        return StreamSupport.stream(list.spliterator(), false);
    }

    private static byte[] bytes(JsonNode value) {
        if (value.isNull()) {
            return null;
        }
        return value.isObject()
                ? HexFormat.of().parseHex(value.get("hex").asText())
                : value.asText().getBytes(StandardCharsets.UTF_8);
    }

    @TestFactory
    Stream<DynamicTest> matchesAsTheTableSays() throws IOException {
        return each(cases().get("matches")).map(line -> DynamicTest.dynamicTest(line.toString(), () -> {
            List<Header> headers = new ArrayList<>();
            line.get(2).forEach(header -> headers.add(new RecordHeader(header.get(0).asText(), bytes(header.get(1)))));
            Filter filter = Filter.parse(line.get(0).asText());
            assertEquals(line.get(3).asBoolean(), filter.matches(bytes(line.get(1)), headers));
        }));
    }

    @TestFactory
    Stream<DynamicTest> errorsNameTheirPosition() throws IOException {
        return each(cases().get("errors")).map(line -> DynamicTest.dynamicTest(line.toString(), () -> {
            assertEquals(line.get(1).asInt(), positionOfError(line.get(0).asText()));
        }));
    }

    private static int positionOfError(String text) {
        return assertThrows(FilterSyntaxException.class, () -> Filter.parse(text)).position;
    }

    @Test
    void lengthDepthAndTestsAreBounded() {
        String full = "a = '" + "x".repeat(Filter.LENGTH_MAX - 6) + "'";
        assertDoesNotThrow(() -> Filter.parse(full));
        assertEquals(Filter.LENGTH_MAX + 1, positionOfError(full + " "));
        assertDoesNotThrow(() -> Filter.parse("not ".repeat(Filter.DEPTH_MAX) + "a exists"));
        assertEquals(4 * Filter.DEPTH_MAX + 1, positionOfError("not ".repeat(Filter.DEPTH_MAX + 1) + "a exists"));
        assertEquals(Filter.DEPTH_MAX + 1, positionOfError("(".repeat(Filter.LENGTH_MAX)));
        assertDoesNotThrow(() -> Filter.parse(String.join(" or ", Collections.nCopies(Filter.TESTS_MAX, "a exists"))));
        assertEquals(
                12 * Filter.TESTS_MAX + 1,
                positionOfError(String.join(" or ", Collections.nCopies(Filter.TESTS_MAX + 1, "a exists"))));
    }
}
