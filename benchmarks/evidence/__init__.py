"""Small CPU experiments that show the direction of each paper's headline claim, with the product's own losses."""
