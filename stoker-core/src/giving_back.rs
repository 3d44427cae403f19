//! Lists that are used up.

/// So many items at a time.
const ITEMS: usize = 4096;

/// The items of a list, in order; the memory of those that were taken goes back as it goes. A first sync has one for
/// every file, more than once.
#[derive(Debug)]
pub(crate) struct GivingBack<T>(Vec<T>);

impl<T> GivingBack<T> {
    pub(crate) fn new(mut items: Vec<T>) -> Self {
        items.reverse();
        Self(items)
    }
}

impl<T> Iterator for GivingBack<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let item = self.0.pop();
        if self.0.capacity() - self.0.len() > ITEMS {
            self.0.shrink_to_fit();
        }
        item
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.0.len(), Some(self.0.len()))
    }
}
