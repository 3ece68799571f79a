-- Reserved for another change: empty.
SELECT 1;
