//! Host names, host patterns and authorities in canonical form.
