//! Disk on which recorded calls are replayed, and what a power cut leaves of it.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::crash::cut::Cut;
use crate::crash::trace::Event;
use crate::program::give_to_owner;

/// Number of a file, directory or link.
type Inode = usize;

/// A disk.
pub struct Disk {
    root: PathBuf,
    /// The first is the root.
    inodes: Vec<Content>,
    /// Open files and positions in them, by descriptor; descriptors may share one.
    descriptors: HashMap<i64, usize>,
    open: Vec<Open>,
    /// Number of the next change.
    number: usize,
}

struct Open {
    inode: Inode,
    position: u64,
    appends: bool,
}

enum Content {
    File(File),
    Directory(Directory),
    Link(PathBuf),
}

#[derive(Default)]
struct File {
    writes: Vec<Write>,
    /// So many of them are on disk.
    synced: usize,
    length: u64,
}

struct Write {
    number: usize,
    kind: Kind,
}

enum Kind {
    Bytes(u64, Vec<u8>),
    Length(u64),
}

#[derive(Default)]
struct Directory {
    /// Names as the program sees them.
    now: BTreeMap<OsString, Inode>,
    /// Names that are on disk.
    synced: BTreeMap<OsString, Inode>,
    /// What leads from one to the other.
    changes: Vec<Change>,
}

/// Change of names that happens as a whole.
struct Change {
    number: usize,
    slots: Vec<(OsString, Option<Inode>)>,
}

impl Change {
    fn is_left(&self, cut: Cut) -> bool {
        let removes = self.slots.iter().any(|(_, inode)| inode.is_none());
        cut.leaves_name(self.number, removes)
    }
}

/// What a power cut leaves: paths relative to the root.
pub type Tree = BTreeMap<PathBuf, Node>;

/// Something in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// A directory.
    Directory,
    /// A symbolic link with its target.
    Link(PathBuf),
    /// A file, with the numbers of the writes that are left. The flag says that they left zeros.
    File(Inode, Vec<usize>, bool),
}

impl Disk {
    /// The disk as it is now, with everything below a directory synchronized.
    pub fn of(root: &Path) -> Self {
        let mut disk = Self {
            root: root.to_owned(),
            inodes: Vec::new(),
            descriptors: HashMap::new(),
            open: Vec::new(),
            number: 0,
        };
        disk.add(root);
        disk.sync_all();
        disk
    }

    fn add(&mut self, path: &Path) -> Inode {
        let inode = self.inodes.len();
        let kind = fs::symlink_metadata(path).expect("its kind").file_type();
        if kind.is_symlink() {
            let target = fs::read_link(path).expect("its target");
            self.inodes.push(Content::Link(target));
        } else if kind.is_dir() {
            self.inodes.push(Content::Directory(Directory::default()));
            for entry in fs::read_dir(path).expect("a directory") {
                let entry = entry.expect("an entry");
                let child = self.add(&entry.path());
                self.change(inode, vec![(entry.file_name(), Some(child))]);
            }
        } else {
            let bytes = fs::read(path).expect("a file");
            self.inodes.push(Content::File(File::default()));
            self.write(inode, Kind::Bytes(0, bytes));
        }
        inode
    }

    /// Does what a program has done. Returns whether that can change what a power cut leaves.
    pub fn apply(&mut self, event: &Event) -> bool {
        match event {
            Event::Create(path) => {
                if self.find(path).is_some() {
                    return false;
                }
                self.make(path, Content::File(File::default()));
            }
            Event::Truncate(path, length) => {
                let inode = self.existing(path);
                self.write(inode, Kind::Length(*length));
            }
            Event::Open(fd, path, appends) => {
                let inode = path.as_ref().and_then(|path| self.find(path));
                self.descriptors.remove(fd);
                if let Some(inode) = inode {
                    self.descriptors.insert(*fd, self.open.len());
                    self.open.push(Open {
                        inode,
                        position: 0,
                        appends: *appends,
                    });
                }
                return false;
            }
            Event::Duplicate(from, to) => {
                match self.descriptors.get(from).copied() {
                    Some(open) => self.descriptors.insert(*to, open),
                    None => self.descriptors.remove(to),
                };
                return false;
            }
            Event::Seek(fd, position) => {
                self.opened(*fd).position = *position;
                return false;
            }
            Event::Write(fd, offset, bytes) => {
                let inode = self.opened(*fd).inode;
                let length = self.file(inode).length;
                let open = self.opened(*fd);
                let at = match offset {
                    Some(offset) => *offset,
                    None => {
                        let at = if open.appends { length } else { open.position };
                        open.position = at + bytes.len() as u64;
                        at
                    }
                };
                self.write(inode, Kind::Bytes(at, bytes.clone()));
            }
            Event::SetLength(fd, length) => {
                let inode = self.opened(*fd).inode;
                self.write(inode, Kind::Length(*length));
            }
            Event::MakeDirectory(path) => {
                self.make(path, Content::Directory(Directory::default()));
            }
            Event::MakeLink(path, target) => self.make(path, Content::Link(target.clone())),
            Event::MakeName(from, to) => {
                let inode = self.existing(from);
                let (directory, name) = self.place(to);
                self.change(directory, vec![(name, Some(inode))]);
            }
            Event::Rename(from, to) => {
                let inode = self.existing(from);
                let ((directory, old), (same, new)) = (self.place(from), self.place(to));
                assert_eq!(directory, same, "a file leaves its directory: {to:?}");
                self.change(directory, vec![(old, None), (new, Some(inode))]);
            }
            Event::Remove(path) => {
                let (directory, name) = self.place(path);
                self.change(directory, vec![(name, None)]);
            }
            Event::Sync(fd) => {
                let Some(open) = self.descriptors.get(fd) else {
                    return false;
                };
                let inode = self.open[*open].inode;
                self.inodes[inode].sync();
            }
            Event::SyncAll => self.sync_all(),
        }
        true
    }

    fn sync_all(&mut self) {
        self.inodes.iter_mut().for_each(Content::sync);
    }

    fn opened(&mut self, fd: i64) -> &mut Open {
        &mut self.open[self.descriptors[&fd]]
    }

    fn file(&mut self, inode: Inode) -> &mut File {
        match &mut self.inodes[inode] {
            Content::File(file) => file,
            _ => panic!("no file"),
        }
    }

    fn write(&mut self, inode: Inode, kind: Kind) {
        let number = self.next_number();
        let file = self.file(inode);
        file.length = match &kind {
            Kind::Bytes(at, bytes) => file.length.max(at + bytes.len() as u64),
            Kind::Length(length) => *length,
        };
        file.writes.push(Write { number, kind });
    }

    fn next_number(&mut self) -> usize {
        self.number += 1;
        self.number
    }

    fn make(&mut self, path: &Path, content: Content) {
        let (directory, name) = self.place(path);
        let inode = self.inodes.len();
        self.inodes.push(content);
        self.change(directory, vec![(name, Some(inode))]);
    }

    fn change(&mut self, directory: Inode, slots: Vec<(OsString, Option<Inode>)>) {
        let number = self.next_number();
        let Content::Directory(directory) = &mut self.inodes[directory] else {
            panic!("no directory");
        };
        set(&mut directory.now, &slots);
        directory.changes.push(Change { number, slots });
    }

    /// Directory and name of a path.
    fn place(&self, path: &Path) -> (Inode, OsString) {
        let parent = path.parent().expect("a directory above");
        let name = path.file_name().expect("a name");
        (self.existing(parent), name.to_owned())
    }

    fn existing(&self, path: &Path) -> Inode {
        self.find(path)
            .unwrap_or_else(|| panic!("{path:?} is not there"))
    }

    fn find(&self, path: &Path) -> Option<Inode> {
        let path = path.strip_prefix(&self.root).ok()?;
        path.iter()
            .try_fold(0, |inode, name| match &self.inodes[inode] {
                Content::Directory(directory) => directory.now.get(name).copied(),
                _ => None,
            })
    }

    /// Whether a power cut now leaves something at a path, relative to the root.
    pub fn leaves(&self, cut: Cut, path: &Path) -> bool {
        let found = path.iter().try_fold(0, |inode, name| {
            let Content::Directory(directory) = &self.inodes[inode] else {
                return None;
            };
            let last = directory.changes.iter().rev().find_map(|change| {
                let (_, file) = change.slots.iter().find(|(slot, _)| slot == name)?;
                change.is_left(cut).then_some(*file)
            });
            last.unwrap_or_else(|| directory.synced.get(name).copied())
        });
        found.is_some()
    }

    /// What a power cut leaves now.
    pub fn after(&self, cut: Cut) -> Tree {
        let mut tree = Tree::new();
        self.collect(cut, 0, Path::new(""), &mut tree);
        tree
    }

    fn collect(&self, cut: Cut, inode: Inode, path: &Path, tree: &mut Tree) {
        let node = match &self.inodes[inode] {
            Content::Link(target) => Node::Link(target.clone()),
            Content::File(file) => {
                let left = |(place, write): (usize, &Write)| {
                    (place < file.synced || cut.leaves_bytes(write.number)).then_some(place)
                };
                let left: Vec<_> = file.writes.iter().enumerate().filter_map(left).collect();
                let has_zeros = cut == Cut::Lengths && left.len() > file.synced;
                Node::File(inode, left, has_zeros)
            }
            Content::Directory(directory) => {
                let mut names = directory.synced.clone();
                for change in &directory.changes {
                    if change.is_left(cut) {
                        set(&mut names, &change.slots);
                    }
                }
                for (name, child) in names {
                    self.collect(cut, child, &path.join(name), tree);
                }
                Node::Directory
            }
        };
        if inode != 0 {
            tree.insert(path.to_owned(), node);
        }
    }

    /// Content of a file that a power cut left.
    fn content(&self, inode: Inode, left: &[usize], has_zeros: bool) -> Vec<u8> {
        let Content::File(file) = &self.inodes[inode] else {
            panic!("no file");
        };
        let mut content = Vec::new();
        for &place in left {
            match &file.writes[place].kind {
                Kind::Length(length) => content.resize(*length as usize, 0),
                Kind::Bytes(at, bytes) => {
                    let (from, to) = (*at as usize, *at as usize + bytes.len());
                    if content.len() < to {
                        content.resize(to, 0);
                    }
                    match has_zeros && place >= file.synced {
                        true => content[from..to].fill(0),
                        false => content[from..to].copy_from_slice(bytes),
                    }
                }
            }
        }
        content
    }

    /// Makes what a power cut left, in an empty directory. Links to places below the root lead below that.
    pub fn make_in(&self, folder: &Path, tree: &Tree) {
        for (path, node) in tree {
            let place = folder.join(path);
            let made = match node {
                Node::Directory => fs::create_dir(&place),
                Node::Link(target) => match target.strip_prefix(&self.root) {
                    Ok(below) => symlink(folder.join(below), &place),
                    Err(_) => symlink(target, &place),
                },
                Node::File(inode, left, has_zeros) => {
                    fs::write(&place, self.content(*inode, left, *has_zeros))
                }
            };
            made.unwrap_or_else(|error| panic!("{place:?}: {error}"));
            if !matches!(node, Node::Link(_)) {
                give_to_owner(&place);
            }
        }
    }
}

fn set(names: &mut BTreeMap<OsString, Inode>, slots: &[(OsString, Option<Inode>)]) {
    for (name, inode) in slots {
        match inode {
            Some(inode) => names.insert(name.clone(), *inode),
            None => names.remove(name),
        };
    }
}

impl Content {
    fn sync(&mut self) {
        match self {
            Self::File(file) => file.synced = file.writes.len(),
            Self::Directory(directory) => {
                directory.synced = directory.now.clone();
                directory.changes.clear();
            }
            Self::Link(_) => {}
        }
    }
}
