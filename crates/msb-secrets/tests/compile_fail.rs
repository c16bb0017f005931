//! What must not compile: a forged grant, a formatted value, a value read without a grant.

#[test]
fn grants_cannot_be_forged_nor_values_read_or_formatted() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/fail/*.rs");
}
