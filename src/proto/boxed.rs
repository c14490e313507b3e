use std::collections::TryReserveError;
use std::ops::{Deref, DerefMut};

/// A `Box` with a fallible allocation, which stable std does not have: a lack of memory ends one
/// connection instead of the process.
pub(super) struct Boxed<T>(Box<[T; 1]>);

impl<T> Boxed<T> {
    /// # Errors
    /// If there is no memory for it.
    pub(super) fn new(value: T) -> Result<Self, TryReserveError> {
        let mut values = Vec::new();
        values.try_reserve_exact(1)?;
        values.push(value);
        match values.try_into() {
            Ok(values) => Ok(Self(values)),
            Err(_) => unreachable!("there is one"),
        }
    }
}

impl<T: std::fmt::Debug> std::fmt::Debug for Boxed<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (**self).fmt(f)
    }
}

impl<T> Deref for Boxed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0[0]
    }
}

impl<T> DerefMut for Boxed<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_debug_text_is_that_of_its_value() {
        assert_eq!(format!("{:?}", Boxed::new("one").unwrap()), "\"one\"");
    }
}
