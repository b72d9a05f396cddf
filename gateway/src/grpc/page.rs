//! Pages of lists: sizes within their limit, and tokens that hold only for the list that they came from.

use super::cursor::{self, Kind};
use super::status;
use crate::service::ServiceError;

/// Items of a page when the caller does not say.
pub const PAGE_SIZE_DEFAULT: u32 = 50;
/// Items of the largest page.
pub const PAGE_SIZE_MAX: u32 = 200;
/// Stored pages looked at for one page of a filtered list; the token goes on where the look ended.
pub(super) const SCANS_MAX: u32 = 10;

/// One page that is asked for.
pub(super) struct Page {
    kind: Kind,
    scope: Vec<u8>,
    /// Items at most.
    pub(super) size: u32,
    /// Where it begins; none for the first.
    pub(super) position: Option<Vec<u8>>,
}

impl Page {
    /// Reads a request's page. `scope` is the rest of the request, with whom it is answered for.
    pub(super) fn read(
        kind: Kind,
        scope: Vec<u8>,
        size: u32,
        token: &str,
    ) -> Result<Self, ServiceError> {
        let size = match size {
            0 => PAGE_SIZE_DEFAULT,
            size if size <= PAGE_SIZE_MAX => size,
            _ => {
                return Err(status::field(
                    "page_size",
                    format!("is 1 to {PAGE_SIZE_MAX}"),
                ));
            }
        };
        let position = if token.is_empty() {
            None
        } else {
            let position = cursor::read_text(kind, &scope, token);
            let why = "is not a token of this list with these filters: begin again without one";
            Some(position.ok_or_else(|| status::field("page_token", why))?)
        };
        Ok(Self {
            kind,
            scope,
            size,
            position,
        })
    }

    /// Items of the page as a count.
    pub(super) fn len(&self) -> usize {
        usize::try_from(self.size).unwrap_or(usize::MAX)
    }

    /// The position as an id of 16 bytes.
    pub(super) fn id(&self) -> Option<[u8; 16]> {
        self.position
            .as_deref()
            .and_then(|position| position.try_into().ok())
    }

    /// The position as a number.
    pub(super) fn number(&self) -> Option<u64> {
        self.position.as_deref().and_then(cursor::number)
    }

    /// The items of this page out of all that follow its position, and the token of the next page where more do.
    pub(super) fn cut<T>(
        &self,
        mut rest: impl Iterator<Item = T>,
        place: impl FnOnce(&T) -> Vec<u8>,
    ) -> (Vec<T>, String) {
        let shown: Vec<T> = rest.by_ref().take(self.len()).collect();
        let last = rest.next().and(shown.last());
        let token = last.map(|last| self.token(&place(last)));
        (shown, token.unwrap_or_default())
    }

    /// The token of the page that begins at a position.
    pub(super) fn token(&self, position: &[u8]) -> String {
        cursor::write_text(self.kind, &self.scope, position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(size: u32, token: &str) -> Result<Page, ServiceError> {
        Page::read(Kind::Alarms, b"open".to_vec(), size, token)
    }

    #[test]
    fn a_page_holds_its_limit() {
        assert_eq!(read(0, "").unwrap().size, PAGE_SIZE_DEFAULT);
        assert_eq!(read(PAGE_SIZE_MAX, "").unwrap().size, PAGE_SIZE_MAX);
        assert!(read(PAGE_SIZE_MAX + 1, "").is_err());
    }

    #[test]
    fn a_page_is_cut_where_it_is_full_and_names_the_next_one_only_where_there_is_more() {
        let all = || (1..=4_u64).map(|n| n * 10);
        let cut = |size, from: u64| {
            let page = read(size, "").unwrap();
            page.cut(all().filter(|n| *n > from), |n| n.to_be_bytes().to_vec())
        };
        let (shown, token) = cut(3, 0);
        assert_eq!(shown, [10, 20, 30]);
        assert_eq!(read(3, &token).unwrap().number(), Some(30));
        assert_eq!(cut(3, 30), (vec![40], String::new()));
        assert_eq!(cut(4, 0), (all().collect(), String::new()));
        assert_eq!(cut(3, 40), (Vec::new(), String::new()));
    }

    #[test]
    fn a_token_goes_on_where_its_page_ended() {
        let first = read(1, "").unwrap();
        assert!(first.position.is_none());
        let next = read(1, &first.token(&9u64.to_be_bytes())).unwrap();
        assert_eq!(next.number(), Some(9));
        let other = Page::read(
            Kind::Alarms,
            b"all".to_vec(),
            1,
            &first.token(&9u64.to_be_bytes()),
        );
        assert_eq!(other.err().unwrap().violations[0].field, "page_token");
    }
}
