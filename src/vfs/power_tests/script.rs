//! Random SQL that says the same in the same state: no clock, no random values of SQLite's, no order left open.

use crate::disk::sim::Dice;

/// What every database of these tests begins with.
pub const SCHEMA: &str = "CREATE TABLE a(id INTEGER PRIMARY KEY, x, y); CREATE INDEX ax ON a(x);
    CREATE TABLE b(k TEXT PRIMARY KEY, v) WITHOUT ROWID; CREATE TABLE n(id INTEGER PRIMARY KEY, v); INSERT INTO n VALUES(0, 0)";

/// The tables of those that write beside each other, one for each connection: what two transactions have read, not what they write,
/// makes them conflict.
pub const OF_EACH: usize = 8;

/// [`SCHEMA`], and those tables.
pub fn schema_beside() -> String {
    let table = |place| format!("CREATE TABLE m{place}(id INTEGER PRIMARY KEY, v); INSERT INTO m{place} VALUES(0, 0)");
    let tables: Vec<String> = (0..OF_EACH).map(table).collect();
    format!("{SCHEMA}; {}", tables.join("; "))
}

/// A statement that writes to the table of the connection with this place what it has read of others.
pub fn derive(dice: &mut Dice, place: usize) -> String {
    let (id, other) = (dice.below(4), dice.index(OF_EACH));
    let source = match dice.below(5) {
        // Now and then more pages than are leased.
        4 => format!("zeroblob({})", (1 << dice.below(20)) - 1),
        0 => String::from("count(*) || ' ' || coalesce(sum(x), 0) || ' ' || coalesce(sum(length(y)), 0) FROM $a"),
        1 => String::from("count(*) || ' ' || coalesce(sum(length(v)), 0) FROM $b"),
        2 => String::from("coalesce(sum(v), 0) + 1 FROM $n"),
        _ => format!("count(*) || ' ' || coalesce(sum(v), 0) % 1000003 FROM $m{other}"),
    };
    format!("REPLACE INTO $m{place} SELECT {id}, {source}")
}

fn value(dice: &mut Dice) -> String {
    let number = dice.below(2000);
    match dice.below(10) {
        0 => String::from("NULL"),
        1..4 => format!("{number}"),
        4..7 => format!("'text {number}'"),
        // A few that need a chain of pages.
        7 => format!("zeroblob({})", dice.below(9000)),
        _ => format!("replace(hex(zeroblob({})), '0', '{number}')", dice.below(400)),
    }
}

/// A statement for the database with this name in a connection: `$` stands for it in what [`write`] and [`read`] return.
pub fn in_schema(sql: &str, schema: &str) -> String {
    sql.replace('$', &format!("{schema}."))
}

/// A statement that writes. Nearly each makes a state that was not there before.
pub fn write(dice: &mut Dice) -> String {
    let (id, other, part) = (dice.below(60), dice.below(60), 2 + dice.below(15));
    let (value, extra) = (value(dice), dice.below(3));
    match dice.below(22) {
        0..5 => format!("INSERT OR REPLACE INTO $a VALUES({id}, {other}, {value})"),
        5 => format!("INSERT INTO $a VALUES({id}, {other}, {value})"),
        6 => format!("UPDATE $a SET x=x+1 WHERE id%{part}={}", id % part),
        7 => format!("UPDATE $a SET y={value} WHERE id BETWEEN {id} AND {id}+{part}"),
        8 => format!("DELETE FROM $a WHERE id BETWEEN {id} AND {id}+{part}"),
        9..12 => format!("REPLACE INTO $b VALUES('key {id}', {value})"),
        12 => format!("DELETE FROM $b WHERE k > 'key {id}' AND k < 'key {id}5'"),
        13 => format!(
            "INSERT OR REPLACE INTO $a WITH RECURSIVE c(i) AS (SELECT {id} UNION ALL SELECT i+1 FROM c LIMIT {part}) SELECT i, {other}, {value} FROM c"
        ),
        14 => format!("CREATE TABLE $e{extra}(id INTEGER PRIMARY KEY, v)"),
        15 => format!("DROP TABLE $e{extra}"),
        16 => format!("INSERT INTO $e{extra} VALUES({id}, {value})"),
        17 => format!("CREATE INDEX $e{extra}v ON e{extra}(v)"),
        18 => format!("PRAGMA $user_version={}", dice.below(1000)),
        _ => String::from("UPDATE $n SET v=v+1 WHERE id=0"),
    }
}

/// A statement that reads.
pub fn read(dice: &mut Dice) -> String {
    let id = dice.below(60);
    match dice.below(3) {
        0 => String::from("SELECT count(*), total(length(y)) FROM $a"),
        1 => format!("SELECT k, length(v) FROM $b WHERE k > 'key {id}' ORDER BY k LIMIT 5"),
        _ => format!("SELECT id FROM $a WHERE x={id} ORDER BY id"),
    }
}
