//! Freelists that are made of what several transactions have taken and given beside each other: a model of SQLite's allocation on
//! images of page 1 and of trunks, and the list that is published walked to its end.

use proptest::prelude::*;
use pwal::internal::pages::{
    Composed, Counters, Head, PageOne, Refusal, Shown, Staged, Trunk, Truth, compose, lock_page,
};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

const PAGE_BYTES: usize = 512;
const USABLE: usize = 500;

/// Page 1 and the trunks, as a connection sees or leaves them.
#[derive(Clone, Debug)]
struct List {
    page_one: Vec<u8>,
    trunks: BTreeMap<u32, Vec<u8>>,
}

impl List {
    /// A database of so many pages, all in use.
    fn new(database_pages: u32) -> List {
        let mut page_one = vec![0; PAGE_BYTES];
        page_one[..16].copy_from_slice(b"SQLite format 3\0");
        page_one[16..18].copy_from_slice(&512_u16.to_be_bytes());
        page_one[20] = 12;
        let mut list = List { page_one, trunks: BTreeMap::new() };
        list.change(|counters| counters.database_pages = database_pages);
        list
    }

    fn counters(&self) -> Counters {
        PageOne::parse(&self.page_one).expect("page 1").counters()
    }

    fn change(&mut self, change: impl FnOnce(&mut Counters)) {
        let mut counters = self.counters();
        change(&mut counters);
        assert!(counters.write(&mut self.page_one));
    }

    fn trunk(&self, page: u32) -> Trunk {
        Trunk::parse(&self.trunks[&page], USABLE).expect("a trunk")
    }

    fn put(&mut self, page: u32, trunk: &Trunk) {
        self.trunks.insert(page, trunk.encode(PAGE_BYTES, USABLE).expect("as many leaves as SQLite writes"));
    }

    /// `allocateBtreePage`
    fn allocate(&mut self, choice: usize) -> u32 {
        let Counters { first_trunk, free_pages, .. } = self.counters();
        if free_pages == 0 {
            self.change(|counters| counters.database_pages += 1);
            return self.counters().database_pages;
        }
        let mut trunk = self.trunk(first_trunk);
        if trunk.leaves.is_empty() {
            self.change(|counters| (counters.first_trunk, counters.free_pages) = (trunk.next, free_pages - 1));
            return first_trunk;
        }
        let leaf = trunk.leaves.swap_remove(choice % trunk.leaves.len());
        self.put(first_trunk, &trunk);
        self.change(|counters| counters.free_pages -= 1);
        leaf
    }

    /// `freePage2`
    fn free(&mut self, page: u32) {
        let Counters { first_trunk, free_pages, .. } = self.counters();
        self.change(|counters| counters.free_pages += 1);
        if free_pages != 0 && self.trunk(first_trunk).leaves.len() < Trunk::leaves_written(USABLE) {
            let mut trunk = self.trunk(first_trunk);
            trunk.leaves.push(page);
            self.put(first_trunk, &trunk);
        } else {
            self.put(page, &Trunk { next: if free_pages == 0 { 0 } else { first_trunk }, leaves: Vec::new() });
            self.change(|counters| counters.first_trunk = page);
        }
    }

    /// All that is free; panics where the list is not whole.
    fn walk(&self) -> BTreeSet<u32> {
        let mut free = BTreeSet::new();
        let mut next = self.counters().first_trunk;
        while next != 0 {
            let trunk = self.trunk(next);
            for page in trunk.leaves.iter().chain([&next]) {
                assert!((2..=self.counters().database_pages).contains(page) && free.insert(*page), "page {page}");
            }
            next = trunk.next;
        }
        assert_eq!(free.len(), self.counters().free_pages as usize);
        free
    }

    fn head(&self) -> Head {
        let mut head = Head::new(self.counters().first_trunk);
        if head.rest() != 0 {
            assert!(head.extend(&self.trunks[&head.rest()], USABLE));
        }
        head
    }
}

/// A connection and what it has used.
struct Client {
    list: List,
    shown: Shown,
    /// What it sees of the list is its own.
    is_private: bool,
    used: Vec<u32>,
    own: Vec<u32>,
    /// The first trunk after those that it is shown, as it was.
    rest: Option<Vec<u8>>,
}

impl Client {
    fn new((list, shown, own): (List, Shown, Vec<u32>), is_private: bool, used: Vec<u32>) -> Client {
        let rest = list.trunks.get(&shown.rest()).cloned();
        Client { list, shown, is_private, used, own, rest }
    }
}

fn begin(truth: &List, client: u32, is_private: bool, beyond: u32) -> (List, Shown, Vec<u32>) {
    let (head, size) = (truth.head(), truth.counters().database_pages);
    let mut list = truth.clone();
    let own: Vec<u32> = match is_private {
        // Its share of the list, and a stretch of its own beyond the end.
        true => head
            .pages()
            .iter()
            .copied()
            .filter(|page| page / 8 % 3 == client)
            .take(9)
            .chain(size + 1 + client * beyond..size + 1 + (client + 1) * beyond)
            .collect(),
        false => Vec::new(),
    };
    if !is_private {
        let shown = Shown::truth(&PageOne::parse(&truth.page_one).expect("page 1"), &head).expect("a list");
        return (list, shown, own);
    }
    let (shown, images) = Shown::private(&truth.page_one, &head, &own, 30).expect("a list of its own");
    for (page, image) in images {
        match page {
            1 => list.page_one = image,
            page => drop(list.trunks.insert(page, image)),
        }
    }
    let free = list.walk();
    let everything: BTreeSet<u32> = truth.walk().into_iter().chain(size + 1..=shown.database_pages()).collect();
    assert_eq!(free, everything, "a whole database is shown");
    (list, shown, own)
}

fn try_compose(client: &Client, truth: &List) -> Result<Composed, Refusal> {
    let rest = client.shown.rest();
    let staged = Staged {
        page_one: &client.list.page_one,
        shown: &client.shown,
        rest_is_written: client.list.trunks.get(&rest) != client.rest.as_ref(),
        database_pages: client.list.counters().database_pages,
    };
    let of_truth = Truth { page_one: &truth.page_one, head: truth.head() };
    let mut staged_page = |page: u32| Ok::<_, Infallible>(client.list.trunks.get(&page).cloned());
    let mut true_page = |page: u32| Ok(truth.trunks.get(&page).cloned());
    match compose(&staged, &of_truth, &mut staged_page, &mut true_page) {
        Ok(composed) => composed,
    }
}

#[derive(Clone, Debug)]
struct Step {
    client: u32,
    private: bool,
    allocations: Vec<usize>,
    frees: usize,
    /// It commits now; else its snapshot stays while others commit.
    commits: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let allocations = prop_oneof![
        8 => prop::collection::vec(any::<usize>(), 0..6),
        1 => prop::collection::vec(any::<usize>(), 0..400),
    ];
    (0_u32..3, prop::bool::weighted(0.8), allocations, 0_usize..12, prop::bool::weighted(0.7)).prop_map(
        |(client, private, allocations, frees, commits)| Step { client, private, allocations, frees, commits },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, max_shrink_iters: 100, ..ProptestConfig::default() })]
    /// No page is used twice, none is lost, none is both used and free; and what is refused was taken by another.
    #[test]
    fn what_several_transactions_leave_is_one_list(steps in prop::collection::vec(step(), 1..40)) {
        let mut truth = List::new(40);
        let mut used: BTreeSet<u32> = (1..=40).collect();
        let mut clients: Vec<Client> = (0..3).map(|client| {
            // Each has used a part of the database.
            let used = (5 + client * 10..15 + client * 10).collect();
            Client::new(begin(&truth, client, false, 8), false, used)
        }).collect();
        for Step { client: number, private, allocations, frees, commits } in steps {
            let client = &mut clients[number as usize];
            let mut after = client.used.clone();
            for choice in &allocations {
                after.push(client.list.allocate(*choice));
            }
            for at in 0..frees.min(after.len()) {
                let page = after.swap_remove(at * 7 % after.len());
                client.list.free(page);
            }
            if commits {
                match try_compose(client, &truth) {
                    Ok(Composed { page_one, trunks, database_pages, taken, head, .. }) => {
                        truth.page_one = page_one;
                        truth.trunks.extend(trunks);
                        prop_assert_eq!(truth.counters().database_pages, database_pages);
                        let first = truth.head();
                        prop_assert!(head.trunks().is_empty() || first.pages().iter().all(|page| head.contains(*page)));
                        let free = truth.walk();
                        prop_assert!(head.pages().iter().all(|page| free.contains(page)));
                        prop_assert!(taken.iter().all(|page| used.insert(*page)), "a page is used twice");
                        for page in &client.used {
                            if !after.contains(page) {
                                prop_assert!(used.remove(page));
                            }
                        }
                        client.used = after.clone();
                        prop_assert!(used.is_disjoint(&free));
                        prop_assert_eq!(used.len() + free.len(), database_pages as usize, "a page is lost");
                    }
                    Err(Refusal::Page(page)) => {
                        let is_its = client.shown.is_free(page) && page <= truth.counters().database_pages;
                        prop_assert!(is_its && !truth.head().contains(page), "page {} is free", page);
                    }
                    Err(Refusal::Structure) => {
                        let taken = allocations.len();
                        prop_assert!(taken > 30 || !client.is_private || client.own.len() < taken, "{} pages", taken);
                    }
                }
            }
            *client = Client::new(begin(&truth, number, private, 8), private, client.used.clone());
        }
    }

    #[test]
    fn arbitrary_images_are_refused_or_composed(bytes in prop::collection::vec(any::<u8>(), 512), at in 24_usize..40, page in 1_u32..60) {
        let truth = List::new(40);
        let mut client = Client::new(begin(&truth, 1, true, 8), true, Vec::new());
        client.list.page_one[at] = bytes[0];
        client.list.trunks.insert(page, bytes);
        if let Ok(composed) = try_compose(&client, &truth) {
            prop_assert!(composed.trunks.len() < 60);
        }
    }
}

#[test]
fn the_page_of_the_locks_is_never_free() {
    assert_eq!((lock_page(512), lock_page(4096), lock_page(65536)), ((1 << 21) + 1, 262_145, 16385));
    let page = lock_page(PAGE_BYTES);
    let truth = List::new(page - 5);
    let (head, own) = (truth.head(), [page - 3, page + 2]);
    let (shown, images) = Shown::private(&truth.page_one, &head, &own, 30).expect("a list of its own");
    assert!(!shown.is_free(page) && shown.is_free(page - 1) && shown.is_free(page + 1));
    assert!(Shown::private(&truth.page_one, &head, &[page], 30).is_none());
    let mut list = truth.clone();
    for (page, image) in images {
        match page {
            1 => list.page_one = image,
            page => drop(list.trunks.insert(page, image)),
        }
    }
    let mut taken: Vec<u32> = (0..2).map(|_| list.allocate(0)).collect();
    taken.sort_unstable();
    assert_eq!(taken, own);
    let client = Client::new((list, shown, own.to_vec()), true, taken);
    let composed = try_compose(&client, &truth).expect("composed");
    assert_eq!(composed.database_pages, page + 2);
    assert_eq!(composed.head.pages(), [page - 4, page - 2, page - 1, page + 1]);
}

/// Others have allocated and freed, and all that is shown is free still: the rest of the list may be another one all the same.
#[test]
fn a_list_that_others_have_changed_has_left_what_was_shown() {
    let mut truth = List::new(40);
    for page in [7, 12, 31] {
        truth.free(page);
    }
    let (mut list, mut shown, own) = begin(&truth, 1, true, 8);
    assert!(!shown.has_left());
    shown.leave(&[]);
    assert!(shown.has_left() && shown.is_free(12));
    // SQLite goes on with the list after the commit.
    let used = vec![list.allocate(0)];
    let client = Client::new((list, shown, own), true, used);
    let composed = try_compose(&client, &truth).expect("composed");
    assert!(composed.seen.has_left());
}

/// SQLite may go on to the trunk after those that are shown, take a page of it, and put another one there: as many as before, and not
/// the same.
#[test]
fn what_has_changed_after_what_is_shown_is_not_published() {
    let mut truth = List::new(300);
    (10..=128).for_each(|page| truth.free(page));
    let mut client = Client::new(begin(&truth, 1, false, 0), false, vec![200]);
    assert_eq!((client.list.counters().first_trunk, client.shown.rest()), (128, 10), "full, and then a new one");
    assert_eq!(client.list.allocate(0), 128);
    assert!((11..=127).contains(&client.list.allocate(0)));
    client.list.free(200);
    assert_eq!(client.list.counters().free_pages, truth.counters().free_pages - 1);
    assert_eq!(try_compose(&client, &truth).err(), Some(Refusal::Structure));
}
